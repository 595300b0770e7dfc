//! One connection to one server: the way there, TLS, the login, and calls.
//!
//! Waits for as long as it is told, and gives up nothing by itself: who uses it bounds each call and throws it away.

use std::{fmt, io, sync::Arc, time::Duration};

use http::Uri;
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, Value,
    aio::MultiplexedConnection, cmd,
};
use secrecy::ExposeSecret;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::{
    address::{Address, Credentials, Endpoint},
    answer::{self, CallError},
    meter::{Meter, Metered},
};
use crate::{
    fleet::register::{Failure, Fault},
    upstream::{OwnListeners, connector::Connector},
};

/// Calls that wait to be written, beyond which a call waits for room. Each group has one exchange under way, and few groups exchange at
/// the same moment.
const QUEUED: usize = 64;

/// Seen by operators in `CLIENT LIST`.
const NAME: &str = "revgate";

/// Where to connect, and as whom.
#[derive(Clone)]
pub(crate) struct Target {
    pub address: Address,
    /// With it, TLS; the certificate must name the host.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub database: u32,
    pub credentials: Option<Credentials>,
}

impl Target {
    /// One of the addresses, with what holds for the servers of this endpoint. The configuration of TLS is used if the endpoint wants TLS.
    pub(crate) fn at(
        endpoint: &Endpoint,
        address: Address,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Target {
        Target {
            address,
            tls: tls.filter(|_| endpoint.tls).cloned(),
            database: endpoint.database,
            credentials: endpoint.credentials.clone(),
        }
    }
}

/// Without the credentials.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Gets what the server sends by itself. It must not block.
pub(crate) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// An open connection. It ends when it is dropped.
pub(crate) struct Connection {
    /// Only cloned: its calls want `&mut`, though they share the connection.
    calls: MultiplexedConnection,
    meter: Arc<Meter>,
    driver: JoinHandle<()>,
    ended: watch::Receiver<bool>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // It would otherwise live until all calls are answered.
        self.driver.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Connection {
    /// Connects and logs in, `within` a time for all of it.
    ///
    /// # Errors
    /// With what to look at, without secrets.
    pub(crate) async fn open(
        target: &Target,
        within: Duration,
        on_push: OnPush,
    ) -> Result<Connection, Failure> {
        let opening = async {
            let stream = connect(target, within).await?;
            log_in(target, stream, on_push).await
        };
        match timeout(within, opening).await {
            Ok(done) => done,
            Err(_elapsed) => Err(Failure::new(
                Fault::TimedOut,
                format!("connecting to {target} took too long"),
            )),
        }
    }

    /// Asks one question on a connection of its own, `within` a time for all of it.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub(crate) async fn ask(
        target: &Target,
        question: &Cmd,
        within: Duration,
    ) -> Result<Value, Failure> {
        let asking = async {
            let no_push: OnPush = Arc::new(|_| {});
            let connection = Connection::open(target, within, no_push).await?;
            let answer = connection.call(question).await;
            answer.map_err(|error| error.failure())
        };
        let answer = timeout(within, asking).await;
        answer.unwrap_or_else(|_elapsed| Err(CallError::TimedOut.failure()))
    }

    /// Sends a command and waits for its answer, for as long as the connection lives.
    ///
    /// # Errors
    /// A refusal, or that the connection broke.
    pub(crate) async fn call(&self, command: &Cmd) -> Result<Value, CallError> {
        let _waiting = self.meter.call();
        match self.calls.clone().send_packed_command(command).await? {
            Value::ServerError(error) => Err(error.into()),
            value => Ok(value),
        }
    }

    /// Sends commands with nothing of others in between, and waits for all answers. A refusal stands among them.
    ///
    /// # Errors
    /// That the connection broke.
    pub(crate) async fn call_all(&self, commands: &Pipeline) -> Result<Vec<Value>, CallError> {
        let _waiting = self.meter.call();
        let count = commands.len();
        let mut calls = self.calls.clone();
        Ok(calls.send_packed_commands(commands, 0, count).await?)
    }

    /// Listens to these channels from its end on.
    ///
    /// # Errors
    /// A refusal, or that the connection broke.
    pub(crate) async fn subscribe(&self, channels: &[&str]) -> Result<(), CallError> {
        let _waiting = self.meter.call();
        Ok(self.calls.clone().subscribe(channels).await?)
    }

    /// No longer listens to this channel.
    ///
    /// # Errors
    /// A refusal, or that the connection broke.
    pub(crate) async fn unsubscribe(&self, channel: &str) -> Result<(), CallError> {
        let _waiting = self.meter.call();
        Ok(self.calls.clone().unsubscribe(channel).await?)
    }

    /// Names it, for operators.
    ///
    /// # Errors
    /// A refusal, or that the connection broke.
    pub(super) async fn set_name(&self) -> Result<Value, CallError> {
        self.call(cmd("CLIENT").arg("SETNAME").arg(NAME)).await
    }

    /// Returns when the connection has ended.
    pub(crate) async fn ended(&self) {
        // Without a sender the driver has gone, so it has ended too.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

/// The look-up of the name, TCP and TLS are those of the connections to DevRev.
async fn connect(target: &Target, within: Duration) -> Result<Box<dyn Stream>, Failure> {
    let failed = |error: String| Failure::new(Fault::Down, error);
    match &target.address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            let stream = stream
                .map_err(|error| failed(format!("connecting to {target} failed: {error}")))?;
            Ok(Box::new(stream))
        }
        Address::Tcp { .. } => {
            // Only host and port of it are used.
            let url: Uri = format!("http://{target}")
                .parse()
                .map_err(|_| failed(format!("{target} is no address")))?;
            let connector = Connector::new(&url, target.tls.clone(), OwnListeners::default(), None);
            let connected = connector.connect(within).await;
            let connected = connected.map_err(|error| failed(error.to_string()))?;
            Ok(Box::new(connected.stream))
        }
    }
}

async fn log_in(
    target: &Target,
    stream: Box<dyn Stream>,
    on_push: OnPush,
) -> Result<Connection, Failure> {
    let meter = Meter::new();
    let stream = Metered::new(stream, meter.clone());
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(target.database.into())
        .set_skip_set_lib_name();
    if let Some(Credentials { user, password }) = &target.credentials {
        login = login.set_password(password.expose_secret());
        if let Some(user) = user {
            login = login.set_username(user);
        }
    }
    let understood = meter.clone();
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None)
        .set_pipeline_buffer_size(QUEUED)
        .set_push_sender(move |push: PushInfo| -> Result<(), io::Error> {
            understood.refill();
            on_push(push);
            Ok(())
        });
    let opened = MultiplexedConnection::new_with_config(&login, stream, config).await;
    let (calls, driving) = opened.map_err(|error| {
        let Failure { fault, reason } = answer::of_login(&error);
        Failure::new(fault, format!("the login at {target} failed: {reason}"))
    })?;
    let (end, ended) = watch::channel(false);
    let driver = tokio::spawn(async move {
        driving.await;
        end.send_replace(true);
    });
    let connection = Connection {
        calls,
        meter,
        driver,
        ended,
    };
    match connection.set_name().await {
        // A user without the right to be named may do the rest all the same.
        Ok(_) | Err(CallError::Refusal(_)) => Ok(connection),
        Err(error) => Err(error.failure()),
    }
}
