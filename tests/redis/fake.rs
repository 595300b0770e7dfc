//! A server that says what it is told to say: for what real ones say at the wrong moment only.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

pub(crate) struct Fake {
    address: String,
    accept: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Fake {
    /// Takes logins. To a command that has one of these words, in capitals, it says what stands beside the word.
    pub(crate) async fn start(says: &[(&'static str, String)]) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        Fake::on(listener, says)
    }

    /// As [`Fake::start`], where what it says depends on its address.
    pub(crate) fn on(listener: TcpListener, says: &[(&'static str, String)]) -> Fake {
        let address = listener.local_addr().expect("an address").to_string();
        let mut says = says.to_vec();
        says.push(("HELLO", "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned()));
        says.push(("SETNAME", "+OK\r\n".to_owned()));
        let accept = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let says = says.clone();
                tokio::spawn(async move {
                    // Each of its commands comes in one piece: they are short, and on loopback.
                    let mut bytes = [0; 16 << 10];
                    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                        let asked = String::from_utf8_lossy(&bytes[..length]).into_owned();
                        for (word, answer) in &says {
                            let answers = asked.matches(word).map(|_| answer.as_str());
                            let answers: String = answers.collect();
                            if stream.write_all(answers.as_bytes()).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Fake { address, accept }
    }

    /// As in a URL: `127.0.0.1:12345`.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }
}
