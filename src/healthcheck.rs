//! `revgate healthcheck`: asks a running gateway whether it serves, for images that have no other program to do so.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{config, runtime::ThreadRuntime};

/// For all of it. Whoever runs a check ends it after some seconds, and should see the reason first.
const WITHIN: Duration = Duration::from_secs(3);

/// Asks the gateway that runs with this file.
///
/// # Errors
/// When it does not answer that it serves.
pub(crate) fn check(file: &Path) -> anyhow::Result<()> {
    // Only the address is of interest: a gateway whose file has been changed for the worse serves on with the old one.
    let (address, problem) = config::admin_address(file);
    let asked = ThreadRuntime::new()?.block_on(ask(address));
    match problem {
        Some(problem) => asked.with_context(|| {
            format!(
                "{problem} (so {address} was asked, the address of the environment or of the defaults)"
            )
        }),
        None => asked,
    }
}

async fn ask(address: SocketAddr) -> anyhow::Result<()> {
    ensure!(
        address.port() != 0,
        "admin.address has port 0, so each start takes another port; name one, such as 9901"
    );
    let (mut failure, end) = (None, Instant::now() + WITHIN);
    for address in reachable(address) {
        let asked = timeout_at(end, livez(address)).await;
        let asked =
            asked.unwrap_or_else(|_| bail!("there was no answer within {} s", WITHIN.as_secs()));
        match asked.with_context(|| format!("the gateway's admin listener {address} is not well")) {
            Ok(()) => return Ok(()),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Where a listener on this address is reached from its own machine.
fn reachable(bound: SocketAddr) -> Vec<SocketAddr> {
    let local: &[IpAddr] = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        IpAddr::V6(ip) if ip.is_unspecified() => &[
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            // It takes both, and a machine may have no IPv6.
            IpAddr::V4(Ipv4Addr::LOCALHOST),
        ],
        ip => return vec![SocketAddr::new(ip, bound.port())],
    };
    let with_port = |ip: &IpAddr| SocketAddr::new(*ip, bound.port());
    local.iter().map(with_port).collect()
}

async fn livez(address: SocketAddr) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get("/livez")
        .header("host", "localhost")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), 1024).collect().await;
    let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
    // Any other server on the port might have such a path.
    ensure!(
        status == 200 && body.trim_ascii() == b"ok",
        "it answered with {status}; another program may have its port"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        for (bound, asked) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1 127.0.0.1:1"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("192.0.2.1:9901", "192.0.2.1:9901"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ] {
            let found = reachable(bound.parse().unwrap());
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), asked);
        }
    }
}
