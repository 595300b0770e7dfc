//! A caller's key is rotated without downtime.

use serde_json::Value;

use crate::{
    rig::hash,
    token::{DevRev, admin, from_file, get},
};

#[tokio::test]
async fn two_keys_are_good_while_one_is_rotated() {
    let devrev = DevRev::default();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), "the-token").expect("written");
    let upstream = devrev.start().await;
    let text = |keys: &str| {
        format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{upstream}\"\n\
             [tokens.main]\nfile = \"{}\"\n[callers.billing]\nkey_sha256 = {keys}\n",
            folder.path().join("token").display()
        )
    };
    let (old, new) = (hash("old-key"), hash("new-key"));
    let gateway = from_file(folder.path(), &text(&format!("\"{old}\"")));
    assert_eq!(get(&gateway, "/works.list", "old-key").await.status, 200);
    assert_eq!(get(&gateway, "/works.list", "new-key").await.status, 401);

    let reload = async |keys: &str| {
        std::fs::write(folder.path().join("revgate.toml"), text(keys)).expect("written");
        let report = admin(&gateway, "POST", "/reload").await.json();
        assert_eq!(report["result"], "applied", "{report}");
        assert_eq!(
            report["changed"],
            serde_json::json!(["callers.billing.key"])
        );
    };
    let keys = async || -> Vec<(String, u64, bool)> {
        let callers = admin(&gateway, "GET", "/callers").await.json();
        let rows = callers["billing"]["keys"].as_array().expect("rows").clone();
        let row = |row: Value| {
            let id = row["id"].as_str().expect("an id").to_owned();
            let requests = row["requests"].as_u64().expect("a count");
            (id, requests, row["last_seen"].is_u64())
        };
        rows.into_iter().map(row).collect()
    };
    reload(&format!("[\"{old}\", \"{new}\"]")).await;
    for key in ["old-key", "new-key", "new-key"] {
        assert_eq!(get(&gateway, "/works.list", key).await.status, 200);
    }
    // The counts from before the reload are kept.
    let (first, second) = (old[..8].to_owned(), new[..8].to_owned());
    assert_eq!(
        keys().await,
        [(first.clone(), 2, true), (second.clone(), 2, true)]
    );
    let config = admin(&gateway, "GET", "/config").await.json();
    assert_eq!(
        config["callers"]["billing"]["key_ids"],
        serde_json::json!([first, second])
    );
    reload(&format!("\"{new}\"")).await;
    let revoked = get(&gateway, "/works.list", "old-key").await;
    assert_eq!(
        (revoked.status, revoked.code().as_str()),
        (401, "unauthenticated")
    );
    assert_eq!(get(&gateway, "/works.list", "new-key").await.status, 200);
    assert_eq!(keys().await, [(second, 3, true)]);
}
