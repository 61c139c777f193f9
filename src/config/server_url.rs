//! The url of a follower that is no Postgres server: `scheme://user:password@host:port/database`.
//!
//! Its parts are taken out here, once. Nothing of it stands in an error, as it may hold a password.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::checks::{duration, required};
use super::connector;
use super::document::Document;
use super::{Secret, TlsMode, TlsSettings, defaults, raw};
use crate::error::Result;
use crate::postgres::UrlTls;

/// How the server of such a follower is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// What the url says.
    pub url: ServerUrl,
    /// TLS, with libpq's names.
    pub tls: TlsSettings,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
}

/// A url, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// The url as it is written, to tell two of them apart.
    pub written: Secret,
    /// Name or address of the host; an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User, if one is named.
    pub user: Option<String>,
    /// Password, if there is one.
    pub password: Option<Secret>,
    /// The database that holds the tables of the leader's schema `public`, and what walferry keeps.
    pub database: String,
}

/// A scheme that a kind of connector takes.
pub(super) struct Scheme {
    /// As in `mysql://`.
    pub name: &'static str,
    /// Port where the url names none.
    pub port: u16,
    /// What [tls] is where nothing else is said.
    pub tls: TlsMode,
    /// Whether [tls] may say anything.
    pub takes_tls: bool,
}

/// `url`, `[tls]` and `connect_timeout` of a connector that takes these schemes.
pub(super) fn server(
    document: &Document,
    schemes: &[Scheme],
    (url, tls, connect_timeout): (Option<String>, raw::Tls, Option<raw::Span>),
) -> Result<ServerSettings> {
    let example = format!(
        "{}://user:${{env:PASSWORD}}@host:{}/database",
        schemes[0].name, schemes[0].port
    );
    let url = required(document, "url", url, &format!("url = \"{example}\""))?;
    let form = format!("write {example}, with @ : / ? % and # in a password percent-encoded");
    let wrong = |what: &str| document.error("url", what, form.clone());
    let split = url.split_once("://");
    let scheme = split.and_then(|(name, _)| schemes.iter().find(|scheme| scheme.name == name));
    let Some((scheme, (_, rest))) = scheme.zip(split) else {
        let known: Vec<String> = schemes.iter().map(|s| format!("{}://", s.name)).collect();
        return Err(wrong(&format!(
            "does not begin with {}",
            known.join(" or ")
        )));
    };
    let parts = parts(rest, scheme.port).map_err(wrong)?;
    let says_tls = tls.mode.is_some() || tls.root_cert.is_some() || tls.cert.is_some();
    if says_tls && !scheme.takes_tls {
        return Err(document.error(
            "tls.mode",
            format!(
                "the url begins with {}://, which is without TLS",
                scheme.name
            ),
            "write https:// in the url, or leave [tls] out",
        ));
    }
    let of_url = UrlTls {
        mode: tls.mode.is_none().then_some(scheme.tls),
        ..UrlTls::default()
    };
    Ok(ServerSettings {
        url: ServerUrl {
            written: Secret::new(url.as_str()),
            ..parts
        },
        tls: connector::tls(document, tls, of_url)?,
        connect_timeout: duration(
            document,
            "connect_timeout",
            connect_timeout,
            defaults::CONNECT_TIMEOUT,
            (Duration::from_millis(100), Duration::from_secs(3600)),
        )?,
    })
}

/// What stands behind `scheme://`.
fn parts(rest: &str, default_port: u16) -> Result<ServerUrl, &'static str> {
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded
            .map(|text| text.into_owned())
            .map_err(|_not_utf8| "has a percent-encoded part that is no UTF-8")
    };
    if rest.contains(['?', '#']) {
        return Err("has parameters behind ? or #, which are not taken");
    }
    let (authority, path) = rest.split_once('/').ok_or("names no database")?;
    let (credentials, place) = match authority.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, authority),
    };
    let (user, password) = match credentials.map(|text| text.split_once(':').ok_or(text)) {
        None => (None, None),
        Some(Ok((user, password))) => (Some(decoded(user)?), Some(Secret::new(decoded(password)?))),
        Some(Err(user)) => (Some(decoded(user)?), None),
    };
    let (host, port) = host_and_port(place, default_port)?;
    let database = decoded(path)?;
    if database.is_empty() || path.contains('/') {
        return Err("names no database");
    }
    Ok(ServerUrl {
        written: Secret::new(""),
        host: decoded(host)?,
        port,
        user: user.filter(|user| !user.is_empty()),
        password,
        database,
    })
}

fn host_and_port(place: &str, default_port: u16) -> Result<(&str, u16), &'static str> {
    let (host, port) = match place.strip_prefix('[') {
        Some(inner) => {
            let (host, behind) = inner.split_once(']').ok_or("has a [ without its ]")?;
            (host, behind.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() {
        return Err("names no host");
    }
    let port = match port {
        Some(port) => port
            .parse()
            .map_err(|_not_a_port| "has a port that is no number up to 65535")?,
        None => default_port,
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_url_are_decoded() {
        let url = parts("me%40x:p%3A%2Fw@db.example:9000/shop%20eu", 1).expect("a url");
        assert_eq!(url.user.as_deref(), Some("me@x"));
        assert_eq!(url.password.expect("a password").reveal(), "p:/w");
        assert_eq!((url.host.as_str(), url.port), ("db.example", 9000));
        assert_eq!(url.database, "shop eu");
        let url = parts("[::1]/d", 8123).expect("a url");
        assert_eq!((url.host.as_str(), url.port), ("::1", 8123));
        assert_eq!((url.user, url.password), (None, None));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_told_without_it() {
        for (rest, part) in [
            ("host", "no database"),
            ("host/", "no database"),
            ("host/a/b", "no database"),
            ("u:p@/d", "no host"),
            ("host:x/d", "port"),
            ("[::1/d", "without its ]"),
            ("host/d?ssl=1", "parameters"),
            ("u:%ff@host/d", "UTF-8"),
        ] {
            let error = parts(rest, 1).expect_err(rest);
            assert!(error.contains(part), "{rest}: {error}");
        }
    }
}
