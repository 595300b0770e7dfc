//! An upstream that is this gateway itself, as far as the file alone can tell. Ports of 0 and names are looked at later.

use super::{Address, Admin, Listen, Upstream, tree::Section};
use crate::upstream::names_own_listener;

pub(super) fn check(root: &Section, listen: &Listen, admin: &Admin, upstream: &Upstream) {
    let proxy = match listen.address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    };
    for (key, address) in [
        ("listen.address", proxy),
        ("admin.address", Some(admin.address)),
    ] {
        let Some(address) = address.filter(|address| address.port() != 0) else {
            continue;
        };
        if names_own_listener(&upstream.url, &[address]) {
            root.problem(
                "upstream.url",
                format!("is this gateway's own {key}, so that requests would run in a circle; name DevRev's API"),
            );
        }
    }
}
