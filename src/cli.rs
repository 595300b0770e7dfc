//! The command line.

mod connect;

use std::{
    fmt::Display,
    io::{IsTerminal, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    config::{self, AuthMode, Config},
    hash::{hex, sha256},
    output::{complain, print},
    plan::Plan,
    policy::key_strength,
    serve::{
        DemoOptions, Load,
        control::explain::{ExplainQuery, explain},
        descriptors,
    },
    simulator::{self, FaultPlan},
    telemetry::log,
    version,
};

/// The gateway that internal services put in front of the DevRev API.
#[derive(Parser)]
#[command(name = "revgate", version = version::DETAILS.as_str())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run(File),
    /// Load the file as `run` would; say in one line that it is good, or every problem with its place.
    Check(Check),
    /// The DevRev simulator and a gateway in front of it, both on loopback; needs no file, token or network.
    Demo {
        /// How much three services call by themselves, so that the status page has something to show.
        #[arg(long, value_enum, default_value = "mild", default_missing_value = "mild", num_args = 0..=1)]
        load: Load,
        /// The load's calls are the same for the same seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Number of gateways, at most 9. They share the quota as a fleet, in memory here and through Redis elsewhere.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
        replicas: u8,
    },
    /// The DevRev simulator alone, for tests of your own; config/simulator.md says what it answers.
    Mock {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8081", value_parser = address)]
        listen: SocketAddr,
        /// Requests per window.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Length of the window, such as "10s".
        #[arg(long, default_value = "5m", value_parser = window)]
        window: Duration,
        /// A file of faults: errors, delays, broken connections. config/simulator.md has the format and examples.
        #[arg(long)]
        plan: Option<PathBuf>,
        /// Start without objects. By default there are some of each kind, so that no list is empty.
        #[arg(long)]
        empty: bool,
    },
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Read a caller's key from standard input, print the SHA-256 for `key_sha256`. Refuses a key that can be guessed.
    HashKey {
        /// Taken only to be refused with the reason.
        #[arg(hide = true, allow_hyphen_values = true, num_args = 0..)]
        keys: Vec<String>,
    },
    /// Ask the gateway that runs with this file whether it serves. Exit status 0 if its admin listener answers /livez, else 1.
    Healthcheck(File),
    /// Print the completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of revgate or of one of its commands.
    Man {
        /// The command.
        command: Option<String>,
    },
}

#[derive(clap::Args)]
struct File {
    /// The configuration file.
    #[arg(short = 'c', long = "config")]
    config: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Check {
    #[command(flatten)]
    file: File,
    /// Print the effective configuration, which loads again with the same meaning.
    #[arg(long, conflicts_with = "explain")]
    print: bool,
    /// Also try the Redis of a fleet (section "shared"), from here: that it can be reached, what it is, the rights of the user, its clock, the time of 50
    /// exchanges. Exit status 1 if Redis cannot be used.
    #[arg(long, conflicts_with_all = ["explain", "print"])]
    connect: bool,
    /// Say step by step what would happen to a request, such as 'POST /rev-users.link'. Exit status 0 if it would be
    /// forwarded, 1 if refused, 2 if the options are wrong.
    #[arg(long, value_name = "REQUEST")]
    explain: Option<String>,
    /// The caller that sends it, by its name in the file. By default a client without a credential.
    #[arg(long, value_name = "NAME", requires = "explain")]
    caller: Option<String>,
    /// A header of the request, "Name: value"; may be repeated.
    #[arg(long = "header", value_name = "HEADER", requires = "explain")]
    headers: Vec<String>,
    /// A file with the request's body; - is standard input.
    #[arg(long, value_name = "FILE", requires = "explain")]
    body: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long, requires = "explain")]
    json: bool,
}

/// A usage error that shows only after the file is read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

impl Check {
    fn run(self) -> anyhow::Result<ExitCode> {
        let file = self.file.path();
        let config = config::load(&file)?;
        let limits = descriptors::check(&config);
        let warnings = config.warnings.iter().chain(&limits);
        for problem in warnings.clone() {
            complain(problem.warning());
        }
        let plan = Plan::of(&config)?;
        let mut count = warnings.count();
        if self.connect {
            let found = connect::connect(&config, &plan)?;
            for problem in &found.warnings {
                complain(problem.warning());
            }
            for line in &found.lines {
                say(line)?;
            }
            count += found.warnings.len();
        }
        let Some(request) = self.explain else {
            match self.print {
                true => say(toml::to_string(&config.effective())?.trim_end())?,
                false => say(all_is_well(&file, &config, count))?,
            }
            return Ok(ExitCode::SUCCESS);
        };
        let body = self.body.as_deref().map(read_body).transpose()?;
        let query = ExplainQuery {
            request,
            caller: self.caller,
            headers: self.headers,
            body,
        };
        let explanation = explain(&config, &plan, query, None).map_err(Misuse)?;
        if self.json {
            say(format!("{:#}", explanation.json()))?;
        } else {
            say(&explanation)?;
        }
        Ok(match explanation.forwarded() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// What `check` says of a good file.
fn all_is_well(file: &Path, config: &Config, warnings: usize) -> String {
    let counted = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let callers = match config.auth.mode {
        AuthMode::Inject => counted(config.callers.len(), "caller"),
        AuthMode::Validate => "callers with their own tokens".to_owned(),
    };
    format!(
        "ok: {}, {callers}, {}",
        file.display(),
        counted(warnings, "warning")
    )
}

fn read_body(path: &Path) -> Result<Vec<u8>, Misuse> {
    let mut body = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().lock().read_to_end(&mut body),
        _ => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut body)),
    };
    match read {
        Ok(_) => Ok(body),
        Err(e) => Err(Misuse(format!(
            "cannot read the body {}: {e}",
            path.display()
        ))),
    }
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

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an IP address and a port, such as 127.0.0.1:8081 or [::1]:8081; a port of 0 takes a free one".to_owned()
    })
}

fn window(text: &str) -> Result<Duration, String> {
    config::duration(text)
        .filter(|d| !d.is_zero())
        .ok_or_else(|| "write a duration such as \"10s\"".to_owned())
}

/// Writes the rest of the log when the program ends, also by a panic.
struct FlushLog;

impl Drop for FlushLog {
    fn drop(&mut self) {
        log::flush();
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let _flush = FlushLog;
    match execute(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let text = format!("{error:#}");
            if !log::try_write(&text) {
                complain(text);
            }
            match error.is::<Misuse>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Check(check) => return check.run(),
        Command::Run(file) => crate::serve::run(file.path()),
        Command::Demo {
            load,
            seed,
            replicas,
        } => {
            let options = DemoOptions {
                load,
                seed,
                replicas,
            };
            crate::serve::demo(options, |text| print(text))
        }
        Command::Mock {
            listen,
            limit,
            window,
            plan,
            empty,
        } => {
            log::init("info", config::LogFormat::Auto)?;
            log::log_panics();
            descriptors::raise();
            let plan = plan.map_or_else(|| Ok(FaultPlan::none()), |path| FaultPlan::load(&path))?;
            simulator::run(simulator::Options {
                listen,
                limit,
                window,
                plan,
                empty,
            })
        }
        Command::Schema => say(config::reference::schema_json().trim_end()),
        Command::HashKey { keys } if !keys.is_empty() => Err(Misuse(KEY_IN_ARGUMENT.into()).into()),
        Command::HashKey { .. } => say(hash_input()?),
        Command::Healthcheck(file) => crate::healthcheck::check(&file.path()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "revgate", &mut script);
            say(String::from_utf8_lossy(&script).trim_end())
        }
        Command::Man { command } => say(manual(command.as_deref())?.trim_end()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn say(text: impl Display) -> anyhow::Result<()> {
    print(text).context("standard output cannot be written")
}

/// The manual page, in roff.
fn manual(command: Option<&str>) -> anyhow::Result<String> {
    let mut cli = Cli::command();
    // Gives each command its full name.
    cli.build();
    let page = match command {
        None => cli,
        Some(name) => {
            let found = cli.find_subcommand(name).cloned();
            found.ok_or_else(|| {
                Misuse(format!("there is no command {name:?}; see revgate --help"))
            })?
        }
    };
    let mut text = Vec::new();
    let source = format!("revgate {}", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(page)
        .source(source)
        .render(&mut text)?;
    Ok(String::from_utf8(text)?)
}

const KEY_IN_ARGUMENT: &str = "the key is read from standard input: in an argument, other users and the shell's history see it. Make a new one \
     and pipe it in: printf %s \"$KEY\" | revgate hash-key";

const PIPE_IT: &str = "pipe it in, such as: printf %s \"$KEY\" | revgate hash-key";

/// The most octets of a key: as many as the gateway reads of a key's file.
const LONGEST_KEY: u64 = 64 << 10;

/// The hash of the key on standard input.
fn hash_input() -> anyhow::Result<String> {
    let input = std::io::stdin();
    if input.is_terminal() {
        let why = format!(
            "the key is read from standard input, which is a terminal and shows what is typed; {PIPE_IT}"
        );
        return Err(Misuse(why).into());
    }
    hash_key(input.lock())
}

/// Trims the key as the gateway trims a key's file, so that both give the same hash.
fn hash_key(input: impl Read) -> anyhow::Result<String> {
    // Allocated in full at once: a growing buffer leaves copies behind that are never wiped.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(LONGEST_KEY as usize + 1));
    let read = input.take(LONGEST_KEY + 1).read_to_end(&mut bytes);
    read.context("standard input cannot be read")?;
    anyhow::ensure!(
        bytes.len() as u64 <= LONGEST_KEY,
        "the key is larger than {} KiB; {PIPE_IT}",
        LONGEST_KEY >> 10
    );
    let text = std::str::from_utf8(&bytes);
    let key = text
        .map(str::trim)
        .map_err(|_| anyhow::anyhow!("the key is not text; {}", config::MAKE_A_KEY))?;
    anyhow::ensure!(!key.is_empty(), "the key is empty; {PIPE_IT}");
    anyhow::ensure!(
        key.bytes().all(|b| b.is_ascii_graphic()),
        "the key must be visible ASCII on one line, as it goes into a header; {}",
        config::MAKE_A_KEY
    );
    anyhow::ensure!(
        !key.starts_with(QUOTES) && !key.ends_with(QUOTES),
        "the key stands in quotes, which would be a part of it; remove them"
    );
    if let Some(weakness) = key_strength::weakness(key) {
        anyhow::bail!("the key can be guessed: {weakness}; {}", config::MAKE_A_KEY);
    }
    Ok(hex(&sha256(key.as_bytes())))
}

const QUOTES: [char; 3] = ['"', '\'', '`'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_a_key_without_its_newline() {
        let hash = "7bb1c6f913cb2426160ad6c7fe489a7ed0f46ab93067a4b5de09caf83865b04e";
        let key = "7d8f1c0b9e34a256f7013c8ae92b645d\n";
        assert_eq!(hash_key(key.as_bytes()).unwrap(), hash);
        let long = "q3Zr8VtN1yLk0sXhB7mWfJ2pUe5GcD9a".repeat(2049);
        for (bad, says) in [
            (&b""[..], "the key is empty; pipe it in"),
            (b"\n", "the key is empty; pipe it in"),
            (b"a b", "must be visible ASCII"),
            ("schlüssel".as_bytes(), "must be visible ASCII"),
            (b"\xff\xfe7d8f1c0b9e34a256", "is not text; make one"),
            (b"\"7d8f1c0b9e34a256f7013c8ae92b645d\"", "stands in quotes"),
            (b"abc", "can be guessed: it has fewer than 20"),
            (
                b"secret-key-for-the-billing-service",
                "can be guessed: it is made of words",
            ),
            (long.as_bytes(), "larger than 64 KiB"),
        ] {
            let error = hash_key(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(
                !error.contains("billing") && !error.contains("7d8f"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_good_file_is_one_line() {
        let env = [("T".to_owned(), "token-value".to_owned())].into();
        let one = "[tokens.main]\nenv = \"T\"\n[callers.a]\nanonymous = true\n";
        let hash = "0".repeat(64);
        let two = format!("{one}[callers.b]\nkey_sha256 = \"{hash}\"\n");
        let file = Path::new("/etc/revgate.toml");
        for (text, warnings, want) in [
            (one, 0, "ok: /etc/revgate.toml, 1 caller, 0 warnings"),
            (&two, 1, "ok: /etc/revgate.toml, 2 callers, 1 warning"),
            (
                "[auth]\nmode = \"validate\"",
                2,
                "ok: /etc/revgate.toml, callers with their own tokens, 2 warnings",
            ),
        ] {
            let config = config::from_toml(text, &env).unwrap();
            assert_eq!(all_is_well(file, &config, warnings), want);
        }
    }

    #[test]
    fn what_check_prints_loads_as_itself() {
        let env = [("T", "token-value"), ("K", "key-value")].map(|(k, v)| (k.into(), v.into()));
        let text = format!(
            "[listen]\naddress = \"unix:/tmp/x.sock\"\n[admin]\naddress = \"0.0.0.0:1\"\nkey = {{ env = \"K\" }}\n\
             [upstream]\ncircuit = {{ open = \"1500ms\" }}\n\
             [tokens.main]\nenv = \"T\"\n[tokens.two]\nenv = \"T\"\nquota_group = \"main\"\n\
             [callers.a]\nkey_sha256 = \"{}\"\ntoken = \"two\"\nrate = \"600/min\"\ndeny = [\"Works.*\"]\n\
             [callers.b]\nkey = {{ env = \"K\" }}\ntoken = \"main\"\ndeny = []\nenforce = false\n\
             [callers.c]\nanonymous = true\ntoken = \"main\"\npriority = \"batch\"\n\
             [[rewrite]]\noperations = [\"rev-users.link\"]\nrename = {{ a = \"b\" }}\nmode = \"off\"\n",
            "0".repeat(64)
        );
        let print = |text: &str| {
            let config = config::from_toml(text, &env.clone().into());
            let config = config.unwrap_or_else(|problems| panic!("{problems}\n{text}"));
            toml::to_string(&config.effective()).unwrap()
        };
        let once = print(&text);
        assert_eq!(print(&once), once);
        for secret in ["token-value", "key-value", "<redacted>"] {
            assert!(!once.contains(secret), "{once}");
        }
        let validate = print("[auth]\nmode = \"validate\"\nintrospect = false");
        assert_eq!(print(&validate), validate);
    }

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_manual_page_and_completions() {
        let commands = Cli::command();
        let names: Vec<_> = commands
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        let main = manual(None).unwrap();
        for name in &names {
            // roff writes a dash as \\-.
            let dashed = name.replace('-', "\\-");
            assert!(
                main.contains(&format!("revgate\\-{dashed}(1)")),
                "{name}: {main}"
            );
            let page = manual(Some(name)).unwrap();
            assert!(page.contains(&format!(".TH revgate-{name} 1")), "{page}");
        }
        let page = manual(Some("run")).unwrap();
        assert!(
            page.contains("\\-c") && page.contains("The configuration file"),
            "{page}"
        );
        assert!(manual(Some("walk")).unwrap_err().is::<Misuse>());
    }
}
