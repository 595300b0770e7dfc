//! A way to a server that can be turned to another.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

pub struct Switch {
    address: SocketAddr,
    target: watch::Sender<String>,
    accepting: JoinHandle<()>,
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Switch {
    pub async fn to(target: String) -> Switch {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (target, targets) = watch::channel(target);
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut targets = targets.clone();
                let target = targets.borrow_and_update().clone();
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(target).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = targets.changed() => {}
                    }
                });
            }
        });
        Switch {
            address,
            target,
            accepting,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the connections that there are; new ones go to the other target.
    pub fn turn(&self, target: String) {
        self.target.send_replace(target);
    }
}
