//! The kernel asks whether a peer is still there, on every connection of the gateway.

use std::net::SocketAddr;

use crate::{
    http::{Client, get},
    rig::{self, KEY, TOKEN},
};

/// The state of a connection's timer, and when it is due in hundredths of a second, by the ports at our end and at the other.
fn timer(local: u16, remote: u16) -> Option<(String, u64)> {
    let ports = (format!(":{local:04X}"), format!(":{remote:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_it = columns[1].ends_with(&ports.0) && columns[2].ends_with(&ports.1);
        let (timer, due) = columns[5].split_once(':')?;
        is_it.then(|| (timer.to_owned(), u64::from_str_radix(due, 16).unwrap()))
    })
}

/// The other end of each connection to `server`, from a process that has it open.
fn connected_to(server: SocketAddr) -> Vec<u16> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = format!(":{:04X}", server.port());
    let rows = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        // Established.
        let is_it = columns[2].ends_with(&port) && columns[3] == "01";
        let local = columns[1].rsplit(':').next()?;
        is_it.then(|| u16::from_str_radix(local, 16).unwrap())
    });
    rows.collect()
}

/// By default the kernel asks nothing, and with keep-alive alone after two hours.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_asks_soon_whether_a_silent_peer_is_there() {
    const KEEPALIVE: &str = "02";
    for workers in [1, 2] {
        let simulator = rig::simulator().await;
        let devrev = simulator.addr();
        let listen = format!("[listen]\nworkers = {workers}\n");
        let text = rig::file(&devrev.to_string(), "").replacen("[listen]\n", &listen, 1);
        let gateway = rig::start(&text, &[("DEVREV_TOKEN", TOKEN)]);
        let address = gateway.address().expect("TCP");
        let mut client = Client::connect(address).await;
        client.send(get("/works.list", KEY)).await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
        let admin = gateway.admin_address();
        let mut operator = Client::connect(admin).await;
        operator
            .send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        assert_eq!(operator.answer().await.expect("an answer").status, 200);
        let port = |client: &Client| client.0.local_addr().expect("connected").port();
        let mut silent = vec![
            ("a client", address.port(), port(&client)),
            ("an operator", admin.port(), port(&operator)),
        ];
        let upstream = connected_to(devrev);
        assert_eq!(upstream.len(), 1, "one connection to DevRev");
        silent.push(("DevRev", upstream[0], devrev.port()));
        for (peer, local, remote) in silent {
            let found = timer(local, remote).unwrap_or_else(|| panic!("no connection of {peer}"));
            assert_eq!(found.0, KEEPALIVE, "{peer}");
            assert!(found.1 <= 30_00, "{peer} is asked in {} s", found.1 / 100);
        }
    }
}
