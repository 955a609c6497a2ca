//! Which names the server answers to, and which pages may call it.
//!
//! A page of another site can make its visitor's browser send requests to this machine: with a name
//! of its own that it lets point here (DNS rebinding), or across origins. Neither is served unless
//! the operator has said so.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::state::App;

/// Whose name or page is let in.
#[derive(Debug)]
pub(crate) struct Origins {
    hosts: Vec<String>,
    pages: Vec<String>,
}

/// Stands for every name or page.
const ANY: &str = "*";
/// What a page of another origin may send.
const CORS_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, x-api-key, x-request-id");
const CORS_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
/// What it may read beside the body.
const CORS_EXPOSED: HeaderValue =
    HeaderValue::from_static("x-request-id, x-kvist-ignored-fields, retry-after");
/// Seconds for which a browser remembers the answer to a preflight.
const CORS_AGE: HeaderValue = HeaderValue::from_static("600");

impl Origins {
    pub(crate) fn new(hosts: &[String], pages: &[String]) -> Self {
        Self {
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            pages: pages.iter().map(|page| page.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether a request to `authority` is meant for this server. Nobody outside can make a name
    /// point here that has no dot, is an address, or ends in `.localhost`.
    fn knows_host(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else {
            return false;
        };
        if authority.as_str().contains('@') {
            return false;
        }
        let name = authority.host().to_ascii_lowercase();
        let bare = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let name = name.strip_suffix('.').unwrap_or(&name);
        bare.unwrap_or(name).parse::<IpAddr>().is_ok()
            || !name.is_empty() && !name.contains('.')
            || name.ends_with(".localhost")
            || self.hosts.iter().any(|host| host == name || host == ANY)
    }

    /// Whether pages of `origin` may call the API though they come from elsewhere.
    fn knows_page(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        self.pages.iter().any(|page| *page == origin || page == ANY)
    }
}

/// The name a request was sent to: of the request line if it has one, as HTTP wants it, or of `Host`.
fn authority(request: &Request) -> Option<&[u8]> {
    let line = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    line.or_else(|| {
        request
            .headers()
            .get(header::HOST)
            .map(HeaderValue::as_bytes)
    })
}

/// Whether `origin` is the page this server itself has sent.
fn is_own(origin: &str, authority: Option<&[u8]>) -> bool {
    let host = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    host.zip(authority)
        .is_some_and(|(host, authority)| host.as_bytes().eq_ignore_ascii_case(authority))
}

/// Turns away requests that a page of another site had sent.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let authority = authority(&request);
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(name) = authority
        && !std::str::from_utf8(name).is_ok_and(|name| app.origins.knows_host(name))
    {
        return ApiError::UnknownHost { given: lossy(name) }.into_response();
    }
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else {
        return next.run(request).await;
    };
    let text = origin.to_str().unwrap_or_default();
    if is_own(text, authority) {
        return next.run(request).await;
    }
    if !app.origins.knows_page(text) {
        let given = lossy(origin.as_bytes());
        return ApiError::UnknownOrigin { given }.into_response();
    }
    let is_preflight = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight {
        preflight()
    } else {
        next.run(request).await
    };
    allow(response.headers_mut(), origin);
    response
}

/// What a browser asks before it sends what a page wants sent. It carries no key.
fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, CORS_METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, CORS_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, CORS_AGE),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Lets the page read the answer. Cookies are never allowed for: there are none.
fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, CORS_EXPOSED);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(hosts: &[&str]) -> Origins {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        Origins::new(&hosts, &["https://Page.example".to_owned()])
    }

    #[test]
    fn addresses_and_names_nobody_outside_can_have_are_known() {
        let own = origins(&[]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:8000",
            "10.1.2.3:80",
            "[::1]",
            "[fe80::1]:8000",
            "localhost",
            "LOCALHOST:8000",
            "localhost.",
            "api.localhost",
            "kvist",
            "kvist:8000",
        ] {
            assert!(own.knows_host(host), "{host}");
        }
        for host in [
            "",
            ":8000",
            "attacker.example",
            "localhost.attacker.example",
            "127.0.0.1.example",
            "127.0.0.1@attacker.example",
            "x@localhost",
            "local host",
            "1.2.3",
            "localhost/v1",
            ".",
        ] {
            assert!(!own.knows_host(host), "{host}");
        }
    }

    #[test]
    fn names_are_let_in_when_they_are_listed() {
        let some = origins(&["Models.Example"]);
        assert!(some.knows_host("models.example:443") && some.knows_host("models.example."));
        assert!(!some.knows_host("more.models.example") && !some.knows_host("models.example.org"));
        assert!(origins(&["*"]).knows_host("anything.example"));
    }

    #[test]
    fn pages_are_let_in_whole_or_not_at_all() {
        let some = origins(&[]);
        assert!(some.knows_page("https://page.example"));
        for page in [
            "http://page.example",
            "https://page.example:1",
            "https://page",
            "null",
            "",
        ] {
            assert!(!some.knows_page(page), "{page}");
        }
    }

    #[test]
    fn the_servers_own_page_is_of_the_same_name_and_port() {
        let host = Some(&b"127.0.0.1:8000"[..]);
        assert!(is_own("http://127.0.0.1:8000", host) && is_own("https://127.0.0.1:8000", host));
        for page in [
            "http://127.0.0.1",
            "http://127.0.0.1:80001",
            "ftp://127.0.0.1:8000",
            "null",
        ] {
            assert!(!is_own(page, host), "{page}");
        }
        assert!(!is_own("http://x", None));
    }
}
