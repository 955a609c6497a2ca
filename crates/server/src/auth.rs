//! API keys.

use std::hint::black_box;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use sha2::{Digest as _, Sha256};

use crate::error::ApiError;
use crate::state::App;

/// What is kept of a key: of no use to whoever reads this process's memory.
type KeyDigest = [u8; 32];

/// The keys that open the server.
pub(crate) struct Keys {
    digests: Vec<KeyDigest>,
}

impl std::fmt::Debug for Keys {
    /// How many, never which.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.digests.len())
    }
}

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self {
            digests: keys.iter().map(|key| digest(key.as_bytes())).collect(),
        }
    }

    /// Who sends a request with these headers; `None` if it may not pass.
    fn admit(&self, headers: &HeaderMap) -> Option<Caller> {
        if self.digests.is_empty() {
            return Some(Caller { key: None });
        }
        let given = presented(headers)?;
        let given_digest = digest(given);
        let mut admitted = None;
        for (index, key) in self.digests.iter().enumerate() {
            // Every key is compared, so that time does not tell which one matched. An empty key
            // would open the door to everyone who sends an empty header; it opens it to nobody.
            if ct_eq(key, &given_digest) & !given.is_empty() {
                admitted = Some(Caller { key: Some(index) });
            }
        }
        admitted
    }
}

/// Who sent a request. Every guarded request carries it as an extension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Which of the keys they have, counted from 0; `None` where none is needed.
    pub(crate) key: Option<usize>,
}

/// The key a client presents: as a bearer token, or in Anthropic's header.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
        return scheme
            .eq_ignore_ascii_case(b"Bearer ")
            .then(|| token.trim_ascii());
    }
    headers.get("x-api-key").map(|value| value.as_bytes())
}

fn digest(key: &[u8]) -> KeyDigest {
    Sha256::digest(key).into()
}

/// Whether two digests are equal, in time that does not depend on where they differ. Nobody can
/// choose a digest that begins like a key's, either.
fn ct_eq(key: &KeyDigest, given: &KeyDigest) -> bool {
    let mut difference = 0;
    for (a, b) in key.iter().zip(given) {
        difference |= a ^ b;
        // Keeps the loop from being ended early once the answer is known.
        difference = black_box(difference);
    }
    difference == 0
}

/// Turns away requests without a key, and notes of the others who sent them.
pub(crate) async fn require_key(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Response {
    match app.keys.admit(request.headers()) {
        Some(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        None => ApiError::Unauthorized.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn admits(keys: &[&str], name: &'static str, value: &'static [u8]) -> bool {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value).unwrap());
        Keys::new(&keys).admit(&headers).is_some()
    }

    #[test]
    fn either_header_opens_with_any_of_the_keys() {
        for header in [&b"Bearer one"[..], b"bearer two", b"Bearer  two "] {
            assert!(admits(&["one", "two"], "authorization", header));
        }
        assert!(admits(&["one", "two"], "x-api-key", b"two"));
    }

    #[test]
    fn a_caller_is_known_by_the_place_of_the_key() {
        let keys = Keys::new(&["one".to_owned(), "two".to_owned()]);
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", HeaderValue::from_static("two"));
        assert_eq!(keys.admit(&headers), Some(Caller { key: Some(1) }));
        let open = Keys::new(&[]);
        assert_eq!(open.admit(&headers), Some(Caller { key: None }));
    }

    #[test]
    fn near_misses_do_not_open() {
        let given: [&[u8]; 8] = [
            b"Bearer",
            b"Bearer ",
            b"Bearer on",
            b"Bearer onee",
            b"Bearer ONE",
            b"Basic one",
            b"one",
            b"Bearer one,one",
        ];
        for value in given {
            assert!(!admits(&["one"], "authorization", value), "{value:?}");
        }
        assert!(!admits(&["one"], "x-api-key", b"Bearer one"));
    }

    #[test]
    fn an_empty_key_opens_nothing() {
        assert!(!admits(&[""], "x-api-key", b""));
        assert!(!admits(&[""], "authorization", b"Bearer "));
    }

    #[test]
    fn comparison_sees_every_byte() {
        let secret = digest(b"key");
        assert!(ct_eq(&secret, &digest(b"key")));
        for idx in 0..secret.len() {
            let mut given = secret;
            given[idx] ^= 1;
            assert!(!ct_eq(&secret, &given), "byte {idx}");
        }
        assert!(!ct_eq(&secret, &digest(b"key\0")));
    }
}
