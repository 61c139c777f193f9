//! What belongs to a database as a whole: how it was created, its settings, who may connect.

use tokio_postgres::Client;

use super::{get, run};
use crate::error::{Error, Result};
use crate::model::relation::{quote_identifier, quote_literal};
use crate::postgres::classify;

/// Settings whose text is a list of quoted words (`GUC_LIST_QUOTE`): as one literal they would be one word.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Settings of a database, for all roles (no name) and for some.
const SETTINGS: &str = "SELECT NULLIF(s.setrole, 0) IS NOT NULL, \
        COALESCE(pg_catalog.pg_get_userbyid(NULLIF(s.setrole, 0))::text, ''), s.setconfig \
    FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
    WHERE d.datname = $1 ORDER BY 1, 2";

const CONNECTION_LIMIT: &str = "SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = $1";

/// How a database was created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kind {
    encoding: String,
    pub(super) collate: String,
    ctype: String,
    /// `c`, `i`, `b`; versions before 15 know one only.
    provider: Option<String>,
    locale: Option<String>,
    rules: Option<String>,
    tablespace: String,
}

impl Kind {
    /// From `pg_database`, whose row is JSON.
    pub(super) fn read(columns: &str, encoding: String, tablespace: String) -> Result<Kind> {
        let columns: serde_json::Value = serde_json::from_str(columns)
            .map_err(|error| Error::transient("reading pg_database").caused_by(error))?;
        let text = |name: &str| columns[name].as_str().map(str::to_owned);
        Ok(Kind {
            encoding,
            collate: text("datcollate").unwrap_or_default(),
            ctype: text("datctype").unwrap_or_default(),
            provider: text("datlocprovider"),
            // It had another name in versions 15 and 16.
            locale: text("datlocale").or_else(|| text("daticulocale")),
            rules: text("daticurules"),
            tablespace,
        })
    }

    /// Whether values or their order may be others there.
    pub(super) fn holds_others(&self, other: &Kind) -> bool {
        let tablespace = self.tablespace.clone();
        *self
            != Kind {
                tablespace,
                ..other.clone()
            }
    }

    /// Creates another database like this one.
    pub(super) fn create(&self, name: &str, owner: Option<&str>) -> String {
        let mut sql = format!(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
            quote_identifier(name),
            quote_literal(&self.encoding),
            quote_literal(&self.collate),
            quote_literal(&self.ctype),
        );
        let mut add = |word: &str, value: &Option<String>| {
            if let Some(value) = value {
                sql.push_str(&format!(" {word} {}", quote_literal(value)));
            }
        };
        match self.provider.as_deref() {
            Some("i") => {
                add("LOCALE_PROVIDER", &Some("icu".to_owned()));
                add("ICU_LOCALE", &self.locale);
                add("ICU_RULES", &self.rules);
            }
            Some("b") => {
                add("LOCALE_PROVIDER", &Some("builtin".to_owned()));
                add("BUILTIN_LOCALE", &self.locale);
            }
            Some("c") => add("LOCALE_PROVIDER", &Some("libc".to_owned())),
            Some(_) | None => {}
        }
        sql.push_str(&format!(
            " TABLESPACE {}",
            quote_identifier(&self.tablespace)
        ));
        if let Some(owner) = owner {
            sql.push_str(&format!(" OWNER {}", quote_identifier(owner)));
        }
        sql
    }
}

/// Settings of a database for one role, or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    role: Option<String>,
    /// Each `name=value`.
    values: Vec<String>,
}

impl Settings {
    fn alter(&self, database: &str) -> String {
        let database = quote_identifier(database);
        match &self.role {
            None => format!("ALTER DATABASE {database}"),
            Some(role) => format!(
                "ALTER ROLE {} IN DATABASE {database}",
                quote_identifier(role)
            ),
        }
    }

    fn set(&self, database: &str) -> Vec<String> {
        let alter = self.alter(database);
        let pairs = self.values.iter().filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(name, value)| format!("{alter} SET {name} TO {}", literal(name, value)))
            .collect()
    }
}

/// A setting's value as SQL. A name with dots is that of an extension's setting: as it stands.
fn literal(name: &str, value: &str) -> String {
    if !LISTS.contains(&name) {
        return quote_literal(value);
    }
    let words: Vec<String> = words(value)
        .iter()
        .map(|word| quote_literal(word))
        .collect();
    match words.is_empty() {
        true => "''".to_owned(),
        false => words.join(", "),
    }
}

/// The words of a list as Postgres keeps it: commas between them, those that need it in double quotes.
fn words(list: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut quoted, mut was_quoted) = (false, false);
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                word.push('"');
            }
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            ',' if !quoted => {
                words.push((std::mem::take(&mut word), std::mem::take(&mut was_quoted)))
            }
            c if c.is_whitespace() && !quoted => {}
            c => word.push(c),
        }
    }
    words.push((word, was_quoted));
    let is_word = |(word, was_quoted): &(String, bool)| !word.is_empty() || *was_quoted;
    words
        .into_iter()
        .filter(is_word)
        .map(|(word, _)| word)
        .collect()
}

/// What makes the settings of `new` those of `old`: those that are there now, and those that are to be.
fn statements(new: &[Settings], old: &[Settings], database: &str) -> Vec<String> {
    if new == old {
        return Vec::new();
    }
    let reset = new
        .iter()
        .map(|settings| format!("{} RESET ALL", settings.alter(database)));
    reset
        .chain(old.iter().flat_map(|settings| settings.set(database)))
        .collect()
}

/// Gives the database `new` the settings and the connection limit of `old`.
///
/// # Errors
/// Halt when a right is missing.
pub(super) async fn carry(client: &Client, old: &str, new: &str) -> Result<()> {
    let (before, wanted) = (read(client, new).await?, read(client, old).await?);
    let mut sql = statements(&before, &wanted, new);
    let failed = |error| classify(&error, "reading a database's connection limit");
    let mut limits = Vec::new();
    for name in [new, old] {
        let row = client
            .query_one(CONNECTION_LIMIT, &[&name])
            .await
            .map_err(failed)?;
        limits.push(get::<i32>(&row, 0)?);
    }
    if let [before, wanted] = limits[..]
        && before != wanted
    {
        sql.push(format!(
            "ALTER DATABASE {} CONNECTION LIMIT {wanted}",
            quote_identifier(new)
        ));
    }
    if sql.is_empty() {
        return Ok(());
    }
    run(
        client,
        &sql.join("; "),
        &format!("giving database {new} the settings of {old}"),
    )
    .await
}

async fn read(client: &Client, database: &str) -> Result<Vec<Settings>> {
    let rows = client.query(SETTINGS, &[&database]).await;
    let rows = rows.map_err(|error| classify(&error, "reading a database's settings"))?;
    let settings = rows.iter().map(|row| {
        let role: String = get(row, 1)?;
        Ok(Settings {
            role: get::<bool>(row, 0)?.then_some(role),
            values: get(row, 2)?,
        })
    });
    settings.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_created_as_the_old_one_was() {
        let columns = r#"{"datcollate":"C.UTF-8","datctype":"C.UTF-8"}"#;
        let read =
            |columns| Kind::read(columns, "UTF8".to_owned(), "pg_default".to_owned()).unwrap();
        let base = "CREATE DATABASE \"n\" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'";
        assert_eq!(
            read(columns).create("n", None),
            format!("{base} TABLESPACE \"pg_default\"")
        );
        let icu = r#"{"datcollate":"C.UTF-8","datctype":"C.UTF-8","datlocprovider":"i","datlocale":"de","daticurules":"&a < b"}"#;
        assert_eq!(
            read(icu).create("n", Some("o")),
            format!(
                "{base} LOCALE_PROVIDER 'icu' ICU_LOCALE 'de' ICU_RULES '&a < b' TABLESPACE \"pg_default\" OWNER \"o\""
            )
        );
        let older = r#"{"datcollate":"C.UTF-8","datctype":"C.UTF-8","datlocprovider":"i","daticulocale":"de"}"#;
        assert!(
            read(older)
                .create("n", None)
                .contains("ICU_LOCALE 'de' TABLESPACE")
        );
        assert!(read(older).holds_others(&read(icu)));
        let elsewhere = Kind {
            tablespace: "fast".to_owned(),
            ..read(icu)
        };
        assert!(!elsewhere.holds_others(&read(icu)));
    }

    #[test]
    fn settings_are_set_as_they_stand_and_lists_word_by_word() {
        let settings = |role: Option<&str>, values: &[&str]| Settings {
            role: role.map(str::to_owned),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let old = [
            settings(
                None,
                &[
                    "search_path=\"$user\", shop, \"it's, \"\"x\"",
                    "work_mem=64MB",
                    "a.b=x=y",
                ],
            ),
            settings(Some("r"), &["search_path=\"\""]),
        ];
        let new = [settings(None, &["jit=off"])];
        assert_eq!(
            statements(&new, &old, "n"),
            [
                "ALTER DATABASE \"n\" RESET ALL",
                "ALTER DATABASE \"n\" SET search_path TO '$user', 'shop', 'it''s, \"x'",
                "ALTER DATABASE \"n\" SET work_mem TO '64MB'",
                "ALTER DATABASE \"n\" SET a.b TO 'x=y'",
                "ALTER ROLE \"r\" IN DATABASE \"n\" SET search_path TO ''",
            ]
        );
        assert!(statements(&old, &old, "n").is_empty());
    }
}
