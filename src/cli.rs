//! The command line.

use std::{
    fmt,
    io::{Read, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use sha2::{Digest, Sha256};

use crate::config;

/// The gateway that internal services put in front of the DevRev API.
#[derive(Parser)]
#[command(name = "revgate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run(File),
    /// Load the file as `run` would; print the effective configuration, or every problem.
    Check(File),
    /// The DevRev simulator and a gateway in front of it, both on loopback; needs no file, token or network.
    Demo,
    /// The DevRev simulator alone.
    Mock {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8081")]
        listen: SocketAddr,
        /// Requests per window.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Length of the window, such as "10s".
        #[arg(long, default_value = "5m", value_parser = window)]
        window: Duration,
        /// A file of planned answers.
        #[arg(long)]
        plan: Option<PathBuf>,
    },
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Read a caller's key from standard input, print the SHA-256 for `key_sha256`.
    HashKey,
}

#[derive(clap::Args)]
struct File {
    /// The configuration file.
    #[arg(short = 'c', long = "config")]
    config: Option<PathBuf>,
}

impl File {
    fn path(self) -> PathBuf {
        let named = std::env::var_os("REVGATE_CONFIG")
            .filter(|v| !v.is_empty())
            .map(PathBuf::from);
        self.config
            .or(named)
            .unwrap_or_else(|| "/etc/revgate/revgate.toml".into())
    }
}

fn window(text: &str) -> Result<Duration, String> {
    config::duration(text)
        .filter(|d| !d.is_zero())
        .ok_or_else(|| "write a duration such as \"10s\"".to_owned())
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(file) => crate::serve::run(file.path()),
        Command::Check(file) => {
            let config = config::load(&file.path())?;
            for config::Problem { path, message } in &config.warnings {
                eprintln!("warning: {path}: {message}");
            }
            print(toml::to_string(&config.redacted())?.trim_end())
        }
        Command::Demo => crate::serve::demo(|text| println!("{text}")),
        Command::Mock {
            listen,
            limit,
            window,
            plan,
        } => {
            crate::telemetry::log::init("info", config::LogFormat::Auto)?;
            crate::simulator::run(listen, limit, window, plan)
        }
        Command::Schema => print(config::reference::schema_json().trim_end()),
        Command::HashKey => print(hash_key(std::io::stdin().lock())?),
    }
}

/// A reader that has seen enough, such as `head`, is no failure.
fn print(text: impl fmt::Display) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Trimmed as the gateway trims a key's file, so that both come to the same hash.
fn hash_key(mut input: impl Read) -> anyhow::Result<String> {
    let mut text = zeroize::Zeroizing::new(String::new());
    input.read_to_string(&mut text)?;
    let key = text.trim();
    anyhow::ensure!(
        !key.is_empty(),
        "the key is empty; pipe it in, such as: printf %s \"$KEY\" | revgate hash-key"
    );
    anyhow::ensure!(
        key.bytes().all(|b| b.is_ascii_graphic()),
        "the key must be visible ASCII on one line, as it goes into a header"
    );
    Ok(Sha256::digest(key.as_bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_a_key_without_its_newline() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_key("abc\n".as_bytes()).unwrap(), hash);
        for bad in ["", "\n", "a b"] {
            assert!(hash_key(bad.as_bytes()).is_err());
        }
    }

    #[test]
    fn arguments_are_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
