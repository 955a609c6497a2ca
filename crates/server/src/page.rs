//! The web page: chat and memory map, in files that are part of the program.
//!
//! Files are open to everybody; what the page then asks for needs the key as anything else does.
//! What it may load is bounded by its policy: nothing but what this server serves.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::state::App;

/// Scripts and styles are files of their own, so that nothing inline need be allowed. Model output is
/// hostile: even if it got past the renderer, it could neither run nor fetch anything.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Clone, Copy)]
struct Asset {
    path: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! assets {
    ($($path:literal: $media_type:ident = $file:literal,)*) => {
        [$(Asset {
            path: $path,
            media_type: $media_type,
            bytes: include_bytes!(concat!("../page/", $file)),
        },)*]
    };
}

const ASSETS: [Asset; 17] = assets! {
    "/": HTML = "index.html",
    "/ui/icon.svg": IMAGE = "icon.svg",
    "/ui/style.css": STYLE = "style.css",
    "/ui/chat.css": STYLE = "chat.css",
    "/ui/memory.css": STYLE = "memory.css",
    "/ui/main.js": SCRIPT = "main.js",
    "/ui/api.js": SCRIPT = "api.js",
    "/ui/chat.js": SCRIPT = "chat.js",
    "/ui/dom.js": SCRIPT = "dom.js",
    "/ui/format.js": SCRIPT = "format.js",
    "/ui/map.js": SCRIPT = "map.js",
    "/ui/markdown.js": SCRIPT = "markdown.js",
    "/ui/memory.js": SCRIPT = "memory.js",
    "/ui/message.js": SCRIPT = "message.js",
    "/ui/store.js": SCRIPT = "store.js",
    "/ui/strings.js": SCRIPT = "strings.js",
    "/ui/whatif.js": SCRIPT = "whatif.js",
};

/// The routes, none of which needs a key.
pub(crate) fn routes() -> Router<App> {
    ASSETS.into_iter().fold(Router::new(), |router, asset| {
        let tag = tag(asset.bytes);
        let serve = move |headers: HeaderMap| async move { answer(asset, &tag, &headers) };
        router.route(asset.path, get(serve))
    })
}

/// The file, or that the client has it already. It asks each time, so that a new program is seen at
/// once.
fn answer(asset: Asset, tag: &HeaderValue, request: &HeaderMap) -> Response {
    let fixed = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ];
    if has(request, tag) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    let media_type = HeaderValue::from_static(asset.media_type);
    (fixed, [(header::CONTENT_TYPE, media_type)], asset.bytes).into_response()
}

/// Whether one of the versions the client has is this one. Proxies mark tags as weak; the bytes are
/// the same.
fn has(request: &HeaderMap, tag: &HeaderValue) -> bool {
    let same = |given: &[u8]| given.strip_prefix(b"W/").unwrap_or(given) == tag.as_bytes();
    let lists = request.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    tags.any(|given| {
        let given = given.trim_ascii();
        given == b"*" || same(given)
    })
}

/// A file's tag: the FNV-1a hash of its bytes.
fn tag(bytes: &[u8]) -> HeaderValue {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    HeaderValue::from_str(&format!("\"{hash:016x}\"")).expect("hexadecimal digits and quotes")
}
