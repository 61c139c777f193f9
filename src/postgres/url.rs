//! The TLS keys of a connection string. People paste URLs with `?sslmode=…` in them, but the settings
//! know TLS by keys of their own and tokio-postgres knows fewer modes than libpq; so the keys are
//! taken out here, before anybody else parses the string. Pure.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;

use crate::config::TlsMode;
use crate::error::{Error, Result};

/// What a connection string says of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UrlTls {
    /// `sslmode`.
    pub mode: Option<TlsMode>,
    /// `sslrootcert`; `system` asks for the system's roots and stands here as `None` with `mode`
    /// verify-full.
    pub root_cert: Option<PathBuf>,
    /// `sslcert`.
    pub cert: Option<PathBuf>,
    /// `sslkey`.
    pub key: Option<PathBuf>,
}

/// Splits a connection string (URL or `key=value` form) into the string without `sslmode`,
/// `sslrootcert`, `sslcert` and `sslkey`, and what these said. The rest is not changed or checked.
///
/// # Errors
/// Halt for a mode that libpq or walferry does not have, and for a string whose parameters cannot be
/// told apart. The text names the key, never the string, which may hold a password.
pub fn split_tls(url: &str) -> Result<(String, UrlTls)> {
    let is_url = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let parameters = if is_url {
        url_parameters(url)?
    } else {
        keyword_parameters(url)?
    };
    let mut tls = UrlTls::default();
    let mut system_roots = false;
    let mut kept = Vec::with_capacity(parameters.len());
    for parameter in &parameters {
        let value = &parameter.value;
        match &*parameter.key {
            "sslmode" => tls.mode = Some(parse_mode(value)?),
            "sslrootcert" if value == "system" => system_roots = true,
            "sslrootcert" => tls.root_cert = Some(PathBuf::from(&**value)),
            "sslcert" => tls.cert = Some(PathBuf::from(&**value)),
            "sslkey" => tls.key = Some(PathBuf::from(&**value)),
            _other => kept.push(&url[parameter.span.clone()]),
        }
    }
    if system_roots {
        // libpq: weaker modes may not be used with sslrootcert=system, and verify-full is its default.
        match tls.mode {
            None | Some(TlsMode::VerifyFull) => tls.mode = Some(TlsMode::VerifyFull),
            Some(TlsMode::Disable | TlsMode::Prefer | TlsMode::Require | TlsMode::VerifyCa) => {
                return Err(wrong(
                    "sslrootcert=system goes only with sslmode=verify-full",
                    "write sslmode=verify-full, or name a certificate file in sslrootcert",
                ));
            }
        }
    }
    let rest = match (is_url, parameters.first()) {
        (_, None) => url.to_owned(),
        (true, Some(first)) => {
            let path = &url[..first.span.start - 1]; // without the `?`
            if kept.is_empty() {
                path.to_owned()
            } else {
                format!("{path}?{}", kept.join("&"))
            }
        }
        (false, Some(_)) => kept.join(" "),
    };
    Ok((rest, tls))
}

/// The connection string with another database. It is added as the last parameter, which counts.
pub fn with_database(url: &str, database: &str) -> String {
    let is_url = url.starts_with("postgres://") || url.starts_with("postgresql://");
    if !is_url {
        let escaped = database.replace('\\', "\\\\").replace('\'', "\\'");
        return format!("{url} dbname='{escaped}'");
    }
    let behind_credentials = url.find('@').map_or(0, |at| at + 1);
    let joint = match url[behind_credentials..].contains('?') {
        true if url.ends_with('?') => "",
        true => "&",
        false => "?",
    };
    let encoded: String = database.bytes().map(percent_encode).collect();
    format!("{url}{joint}dbname={encoded}")
}

fn percent_encode(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// One parameter and where it stands in the string.
struct Parameter<'a> {
    key: Cow<'a, str>,
    value: Cow<'a, str>,
    span: Range<usize>,
}

fn parse_mode(text: &str) -> Result<TlsMode> {
    match text {
        "disable" => Ok(TlsMode::Disable),
        "prefer" => Ok(TlsMode::Prefer),
        "require" => Ok(TlsMode::Require),
        "verify-ca" => Ok(TlsMode::VerifyCa),
        "verify-full" => Ok(TlsMode::VerifyFull),
        "allow" => Err(wrong(
            "sslmode=allow is not supported",
            "write sslmode=prefer, which differs only in trying TLS first",
        )),
        _other => Err(wrong(
            "the connection string's sslmode is not known",
            "write one of disable, prefer, require, verify-ca, verify-full",
        )),
    }
}

fn wrong(what: &str, remedy: &str) -> Error {
    Error::halt(what, remedy)
}

/// The parameters behind a URL's `?`. As in libpq, the credentials end at the first `@`, and only
/// behind them a `?` begins parameters.
fn url_parameters(url: &str) -> Result<Vec<Parameter<'_>>> {
    let behind_credentials = url.find('@').map_or(0, |at| at + 1);
    let Some(mark) = url[behind_credentials..].find('?') else {
        return Ok(Vec::new());
    };
    let mut start = behind_credentials + mark + 1;
    let mut parameters = Vec::new();
    while start < url.len() {
        let end = url[start..].find('&').map_or(url.len(), |i| start + i);
        let text = &url[start..end];
        let (key, value) = text.split_once('=').ok_or_else(|| {
            wrong(
                "a parameter behind the connection URL's `?` has no `=`",
                "write parameters as key=value, joined by `&`",
            )
        })?;
        parameters.push(Parameter {
            key: percent_decode(key)?,
            value: percent_decode(value)?,
            span: start..end,
        });
        start = end + 1;
    }
    Ok(parameters)
}

fn percent_decode(text: &str) -> Result<Cow<'_, str>> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let not_encoded = || {
        wrong(
            "a parameter of the connection URL is not percent-encoded UTF-8",
            "write `%` itself as %25",
        )
    };
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (high, low) = digit().zip(digit()).ok_or_else(not_encoded)?;
        decoded.push(high << 4 | low);
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| not_encoded())
}

/// The parameters of libpq's `key = value` form: values may stand in single quotes, a backslash
/// takes the next character as it is.
fn keyword_parameters(text: &str) -> Result<Vec<Parameter<'_>>> {
    let mut parameters = Vec::new();
    let mut at = skip_space(text, 0);
    while at < text.len() {
        let start = at;
        let key_end = text[at..]
            .find(|c: char| c == '=' || c.is_whitespace())
            .map_or(text.len(), |i| at + i);
        at = skip_space(text, key_end);
        if !text[at..].starts_with('=') {
            return Err(wrong(
                "the connection string is neither a postgres:// URL nor in the form key=value",
                "write postgres://user:password@host:port/database",
            ));
        }
        at = skip_space(text, at + 1);
        let (value, end) = keyword_value(text, at)?;
        parameters.push(Parameter {
            key: Cow::Borrowed(&text[start..key_end]),
            value: Cow::Owned(value),
            span: start..end,
        });
        at = skip_space(text, end);
    }
    Ok(parameters)
}

fn skip_space(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start().len()
}

/// The value that begins at `at`, and where it ends.
fn keyword_value(text: &str, at: usize) -> Result<(String, usize)> {
    let quoted = text[at..].starts_with('\'');
    let start = if quoted { at + 1 } else { at };
    let mut value = String::new();
    let mut escaped = false;
    for (i, c) in text[start..].char_indices() {
        if escaped {
            value.push(c);
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if quoted && c == '\'' {
            return Ok((value, start + i + 1));
        } else if !quoted && c.is_whitespace() {
            return Ok((value, start + i));
        } else {
            value.push(c);
        }
    }
    if quoted {
        return Err(wrong(
            "a quoted value of the connection string does not end",
            "close it with a single quote; write a quote inside as \\'",
        ));
    }
    Ok((value, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mode(mode: TlsMode) -> UrlTls {
        UrlTls {
            mode: Some(mode),
            ..UrlTls::default()
        }
    }

    #[test]
    fn tls_keys_leave_and_the_rest_stays_as_it_was() {
        let whole = UrlTls {
            mode: Some(TlsMode::VerifyFull),
            root_cert: Some("/a b/root.pem".into()),
            cert: Some("c.pem".into()),
            key: Some("k.pem".into()),
        };
        for (url, rest, tls) in [
            ("postgres://h/d", "postgres://h/d", UrlTls::default()),
            ("postgres://h/d?", "postgres://h/d?", UrlTls::default()),
            (
                "postgres://u:p@h:1/d?sslmode=require",
                "postgres://u:p@h:1/d",
                mode(TlsMode::Require),
            ),
            (
                "postgresql://u:p%3F@h/d?connect_timeout=3&sslmode=disable&application_name=a%26b",
                "postgresql://u:p%3F@h/d?connect_timeout=3&application_name=a%26b",
                mode(TlsMode::Disable),
            ),
            (
                "postgres://u:p?sslmode=x&y@h/d?sslmode=verify-ca",
                "postgres://u:p?sslmode=x&y@h/d",
                mode(TlsMode::VerifyCa),
            ),
            (
                "postgres://h/d?sslkey=k.pem&sslrootcert=%2Fa%20b/root.pem&host=/tmp&sslcert=c.pem&sslmode=verify-full",
                "postgres://h/d?host=/tmp",
                whole.clone(),
            ),
            (
                "postgres://h/d?sslrootcert=system",
                "postgres://h/d",
                mode(TlsMode::VerifyFull),
            ),
            (
                "host=h sslmode = require password='a \\' b' dbname=d",
                "host=h password='a \\' b' dbname=d",
                mode(TlsMode::Require),
            ),
            (
                "sslmode=verify-full  sslrootcert='/a b/root.pem' sslcert=c.pem sslkey=k.pem",
                "",
                whole,
            ),
            ("host=h", "host=h", UrlTls::default()),
            ("", "", UrlTls::default()),
        ] {
            assert_eq!(split_tls(url).unwrap(), (rest.to_owned(), tls), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_string() {
        for (url, what) in [
            ("postgres://u:secret@h/d?sslmode=allow", "sslmode=allow"),
            (
                "postgres://u:secret@h/d?sslmode=secret",
                "sslmode is not known",
            ),
            ("postgres://u:secret@h/d?sslmode", "has no `=`"),
            ("postgres://u:secret@h/d?sslmode=%zz", "percent-encoded"),
            (
                "postgres://u:secret@h/d?sslmode=require&sslrootcert=system",
                "only with sslmode=verify-full",
            ),
            ("secret", "neither"),
            ("password='secret", "does not end"),
        ] {
            let error = split_tls(url).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(what), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn another_database_takes_the_place_of_the_one_named() {
        for url in [
            "postgres://u:p%3F@h:1/d",
            "postgres://u:p@h",
            "postgresql://u@h/d?",
            "postgres://u@h/d?dbname=x&connect_timeout=3",
            "host=h user=u dbname=d password='a b'",
            "host=h user=u",
        ] {
            for database in ["shop_2", "a b&c=%/?@", "it's \\ \"so\"", "größer"] {
                let config: tokio_postgres::Config = with_database(url, database).parse().unwrap();
                assert_eq!(config.get_dbname(), Some(database), "{url}");
                assert_eq!(config.get_user(), Some("u"), "{url}");
                assert_eq!(config.get_hosts().len(), 1, "{url}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_string_panics(text: String) {
            let _ = split_tls(&text);
            let _ = split_tls(&format!("postgres://{text}"));
        }

        #[test]
        fn a_string_without_tls_keys_keeps_its_parameters(
            pairs in prop::collection::vec(("[a-r]{1,5}", "[a-z ']{1,5}"), 0..5)
        ) {
            let url: Vec<String> = pairs.iter()
                .map(|(k, v)| format!("{k}='{}'", v.replace('\'', "\\'"))).collect();
            let url = url.join(" ");
            let (rest, tls) = split_tls(&url).unwrap();
            prop_assert_eq!(rest, url);
            prop_assert_eq!(tls, UrlTls::default());
        }
    }
}
