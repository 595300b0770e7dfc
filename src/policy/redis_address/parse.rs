//! The parser.

use std::{net::Ipv6Addr, path::PathBuf, sync::Arc};

use percent_encoding::percent_decode_str;
use rustls_pki_types::ServerName;

use super::{
    Address, AddressProblem, Credentials, Endpoint, Kind, MAX_ADDRESSES, MAX_DATABASE, MAX_HOST,
    MAX_UNIX,
};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Reads the text of `shared.redis`.
///
/// # Errors
/// When it is no such text. The problem completes a sentence that begins with the name of the key, and quotes nothing.
pub fn parse(text: &str) -> Result<Endpoint, AddressProblem> {
    let (scheme, rest) = text.split_once(':').ok_or(AddressProblem::Scheme)?;
    let scheme = scheme.to_ascii_lowercase();
    if scheme == "unix" {
        return unix(rest);
    }
    let (plain, tls) = match scheme.strip_prefix("rediss") {
        Some(rest) => (rest, true),
        None => (
            scheme.strip_prefix("redis").ok_or(AddressProblem::Scheme)?,
            false,
        ),
    };
    let parts = split(rest.strip_prefix("//").ok_or(AddressProblem::Scheme)?)?;
    let credentials = parts.credentials()?;
    let mut path = parts.path.strip_prefix('/').unwrap_or("").split('/');
    let (kind, port, database) = match plain {
        "" => (Kind::Single, PORT, path.next()),
        "+cluster" => (Kind::Cluster, PORT, path.next()),
        "+sentinel" => {
            let kind = Kind::Sentinel {
                master: master(path.next().unwrap_or(""))?,
                credentials: sentinel_credentials(parts.query)?,
            };
            (kind, SENTINEL_PORT, path.next())
        }
        _ => return Err(AddressProblem::Scheme),
    };
    if path.next().is_some() {
        return Err(AddressProblem::Path);
    }
    if !matches!(kind, Kind::Sentinel { .. }) && parts.query.is_some() {
        return Err(AddressProblem::Parameter);
    }
    let addresses = addresses(parts.hosts, port)?;
    let database = match database {
        None | Some("") => 0,
        Some(number) => numbered(number)?,
    };
    match kind {
        Kind::Single if addresses.len() > 1 => Err(AddressProblem::Several),
        Kind::Cluster if database != 0 => Err(AddressProblem::DatabaseOfCluster),
        kind => Ok(Endpoint {
            kind,
            addresses,
            tls,
            database,
            credentials,
        }),
    }
}

/// What stands behind `//`.
struct Parts<'a> {
    user: Option<&'a str>,
    hosts: &'a str,
    /// With its leading slash, or empty.
    path: &'a str,
    query: Option<&'a str>,
}

fn split(text: &str) -> Result<Parts<'_>, AddressProblem> {
    let end = text.find(['/', '?', '#']).unwrap_or(text.len());
    let (authority, rest) = text.split_at(end);
    // A password with a slash would otherwise be read as a host and a path, and its parts might be shown as such.
    if rest.contains('@') {
        return Err(AddressProblem::At);
    }
    if rest.contains('#') {
        return Err(AddressProblem::Fragment);
    }
    let (user, hosts) = match authority.split_once('@') {
        None => (None, authority),
        Some((_, hosts)) if hosts.contains('@') => return Err(AddressProblem::At),
        Some((user, hosts)) => (Some(user), hosts),
    };
    let (path, query) = match rest.split_once('?') {
        None => (rest, None),
        Some((path, query)) => (path, Some(query)),
    };
    Ok(Parts {
        user,
        hosts,
        path,
        query,
    })
}

impl Parts<'_> {
    fn credentials(&self) -> Result<Option<Credentials>, AddressProblem> {
        let Some(text) = self.user else {
            return Ok(None);
        };
        let (user, password) = text.split_once(':').ok_or(AddressProblem::NoPassword)?;
        login(user, password).map(Some)
    }
}

fn login(user: &str, password: &str) -> Result<Credentials, AddressProblem> {
    let (user, password) = (decoded(user)?, decoded(password)?);
    if password.is_empty() {
        return Err(AddressProblem::NoPassword);
    }
    Ok(Credentials {
        user: (!user.is_empty()).then(|| user.into()),
        password: password.into(),
    })
}

/// Without percent signs, which must all be followed by two digits.
fn decoded(text: &str) -> Result<String, AddressProblem> {
    let stray = |rest: &str| {
        let digits = rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count();
        digits < 2
    };
    if text.split('%').skip(1).any(stray) {
        return Err(AddressProblem::Percent);
    }
    let text = percent_decode_str(text).decode_utf8();
    text.map(String::from).map_err(|_| AddressProblem::Percent)
}

fn master(text: &str) -> Result<Arc<str>, AddressProblem> {
    let name = decoded(text)?;
    if name.is_empty() {
        return Err(AddressProblem::NoMaster);
    }
    // Those that Sentinel itself allows.
    let known = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if !name.chars().all(known) {
        return Err(AddressProblem::Master);
    }
    Ok(name.into())
}

fn sentinel_credentials(query: Option<&str>) -> Result<Option<Credentials>, AddressProblem> {
    let (mut user, mut password) = (None, None);
    for pair in query.iter().flat_map(|query| query.split('&')) {
        let slot = match pair.split_once('=') {
            Some(("sentinel_user", value)) => (&mut user, value),
            Some(("sentinel_password", value)) => (&mut password, value),
            _ => return Err(AddressProblem::Parameter),
        };
        if slot.0.replace(slot.1).is_some() {
            return Err(AddressProblem::Parameter);
        }
    }
    match (user, password) {
        (None, None) => Ok(None),
        (_, None) => Err(AddressProblem::NoPassword),
        (user, Some(password)) => login(user.unwrap_or(""), password).map(Some),
    }
}

fn numbered(text: &str) -> Result<u32, AddressProblem> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AddressProblem::Database);
    }
    let number = text.parse().map_err(|_| AddressProblem::Database)?;
    if number > MAX_DATABASE {
        return Err(AddressProblem::Database);
    }
    Ok(number)
}

fn addresses(hosts: &str, default: u16) -> Result<Vec<Address>, AddressProblem> {
    let mut all = Vec::new();
    for text in hosts.split(',') {
        if all.len() == MAX_ADDRESSES {
            return Err(AddressProblem::TooMany);
        }
        all.push(address(text, default)?);
    }
    Ok(all)
}

fn address(text: &str, default: u16) -> Result<Address, AddressProblem> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(AddressProblem::Host)?;
            let host: Ipv6Addr = host.parse().map_err(|_| AddressProblem::Host)?;
            let port = match port.strip_prefix(':') {
                None if port.is_empty() => None,
                None => return Err(AddressProblem::Host),
                Some(port) => Some(port),
            };
            (Arc::from(host.to_string()), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                None => (text, None),
                Some((_, port)) if port.contains(':') => return Err(AddressProblem::Host),
                Some((host, port)) => (host, Some(port)),
            };
            let known = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            if host.is_empty() {
                return Err(AddressProblem::NoHost);
            }
            // A certificate must be able to name it, whether or not TLS is used: so one form serves both.
            if host.len() > MAX_HOST
                || !host.chars().all(known)
                || ServerName::try_from(host).is_err()
            {
                return Err(AddressProblem::Host);
            }
            (Arc::from(host), port)
        }
    };
    let port = match port {
        None => default,
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = text.parse().map_err(|_| AddressProblem::Port)?;
            if port == 0 {
                return Err(AddressProblem::Port);
            }
            port
        }
        Some(_) => return Err(AddressProblem::Port),
    };
    Ok(Address::Tcp { host, port })
}

fn unix(rest: &str) -> Result<Endpoint, AddressProblem> {
    let parts = match rest.strip_prefix("//") {
        Some(rest) => split(rest)?,
        None => {
            let parts = split(rest)?;
            // Without `//` there is no place for a user.
            if parts.user.is_some() {
                return Err(AddressProblem::At);
            }
            parts
        }
    };
    if !parts.hosts.is_empty() || !parts.path.starts_with('/') {
        return Err(AddressProblem::Relative);
    }
    let database = match parts.query {
        None => 0,
        Some(query) => {
            let number = query.strip_prefix("db=").ok_or(AddressProblem::Parameter)?;
            numbered(number)?
        }
    };
    let path = decoded(parts.path)?;
    if path.len() > MAX_UNIX {
        return Err(AddressProblem::LongPath);
    }
    Ok(Endpoint {
        kind: Kind::Single,
        addresses: vec![Address::Unix(PathBuf::from(path).into())],
        tls: false,
        database,
        credentials: parts.credentials()?,
    })
}
