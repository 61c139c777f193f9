//! Names and values in the text of a statement.

use super::types::Kind;

/// An identifier in backquotes: valid whatever it holds.
pub(super) fn name(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('`');
    escape(text, '`', &mut quoted);
    quoted.push('`');
    quoted
}

/// Database and table.
pub(super) fn table(database: &str, table: &str) -> String {
    format!("{}.{}", name(database), name(table))
}

/// A String literal.
pub(super) fn text(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    escape(text, '\'', &mut quoted);
    quoted.push('\'');
    quoted
}

fn escape(text: &str, quote: char, out: &mut String) {
    for char in text.chars() {
        match char {
            '\0' => out.push_str("\\0"),
            '\\' => out.push_str("\\\\"),
            _ if char == quote => {
                out.push('\\');
                out.push(char);
            }
            _plain => out.push(char),
        }
    }
}

/// A value of a type, from the text that Postgres prints, as an expression; `None` where there is none: arrays.
pub(super) fn literal(kind: &Kind, value: &str) -> Option<String> {
    let quoted = || text(value);
    Some(match kind {
        Kind::Bool => (if value == "t" { "true" } else { "false" }).to_owned(),
        Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::UInt32 => value.to_owned(),
        Kind::Float32 | Kind::Float64 | Kind::Decimal(..) | Kind::Date32 | Kind::Uuid => {
            format!("CAST({} AS {kind})", quoted())
        }
        // With an offset behind it, which only this function reads.
        Kind::DateTime64 => format!("parseDateTime64BestEffort({}, 6, 'UTC')", quoted()),
        Kind::Bytes => format!(
            "unhex({})",
            text(value.strip_prefix("\\x").unwrap_or(value))
        ),
        Kind::Text | Kind::Word => quoted(),
        Kind::Json => format!("CAST({} AS JSON)", quoted()),
        Kind::Array(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_and_text_can_be_quoted() {
        assert_eq!(name("a`b\\"), "`a\\`b\\\\`");
        assert_eq!(table("d.1", "T"), "`d.1`.`T`");
        assert_eq!(text("it's\\"), "'it\\'s\\\\'");
    }

    #[test]
    fn a_value_is_an_expression_of_its_type() {
        for (kind, value, expression) in [
            (Kind::Bool, "t", "true"),
            (Kind::Int64, "-5", "-5"),
            (Kind::Decimal(4, 2), "1.50", "CAST('1.50' AS Decimal(4, 2))"),
            (Kind::Bytes, "\\x00ff", "unhex('00ff')"),
            (Kind::Text, "a'b", "'a\\'b'"),
        ] {
            assert_eq!(literal(&kind, value).as_deref(), Some(expression));
        }
        assert_eq!(literal(&Kind::Array(Box::new(Kind::Text)), "{}"), None);
    }
}
