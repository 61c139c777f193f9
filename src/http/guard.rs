//! Who may change something: whoever has the token, and no web page of another origin.

use axum::extract::{Request, State as Asked};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::Context;
use crate::config::Secret;

/// Lets a request that changes something through, or says why not: 401 without the token, 403 from a page
/// of another origin.
pub(super) async fn guard(
    Asked(context): Asked<Context>,
    request: Request,
    next: Next,
) -> Response {
    match refusal(request.headers(), context.token.as_ref()) {
        None => next.run(request).await,
        Some((code, why)) => {
            let asks = [(header::WWW_AUTHENTICATE, "Bearer")];
            (code, asks, why).into_response()
        }
    }
}

fn refusal(headers: &HeaderMap, token: Option<&Secret>) -> Option<(StatusCode, &'static str)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // A browser sends the origin of the page that asks: one from elsewhere has no business here.
    let foreign = text(header::ORIGIN).is_some_and(|origin| {
        let from = origin.split_once("://").map(|(_, authority)| authority);
        from.is_none() || from != text(header::HOST)
    });
    if foreign {
        return Some((
            StatusCode::FORBIDDEN,
            "a page of another origin may change nothing here\n",
        ));
    }
    let token = token?;
    let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    // Hashes are compared, so that the time it takes tells nothing about the token.
    let is_it = given.is_some_and(|given| Sha256::digest(given) == Sha256::digest(token.reveal()));
    (!is_it).then_some((
        StatusCode::UNAUTHORIZED,
        "this needs the header Authorization: Bearer with http.token of walferry.toml\n",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = header::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn only_the_token_lets_through_where_there_is_one() {
        let token = Secret::new("s3cret");
        let code = |pairs: &[_]| refusal(&headers(pairs), Some(&token)).map(|(code, _)| code);
        assert_eq!(code(&[("authorization", "Bearer s3cret")]), None);
        for wrong in [
            "Bearer s3cre",
            "Bearer ",
            "s3cret",
            "Basic s3cret",
            "bearers3cret",
        ] {
            let refused = code(&[("authorization", wrong)]);
            assert_eq!(refused, Some(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        assert_eq!(code(&[]), Some(StatusCode::UNAUTHORIZED));
        assert_eq!(refusal(&headers(&[]), None), None);
    }

    #[test]
    fn a_page_from_elsewhere_changes_nothing() {
        let code = |origin| {
            let of = headers(&[("host", "127.0.0.1:8642"), ("origin", origin)]);
            refusal(&of, None).map(|(code, _)| code)
        };
        assert_eq!(code("http://127.0.0.1:8642"), None);
        for foreign in ["http://evil.example", "http://127.0.0.1:1", "null"] {
            assert_eq!(code(foreign), Some(StatusCode::FORBIDDEN), "{foreign}");
        }
    }
}
