//! The web page: served whole, to everybody, and loading nothing from elsewhere.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use kvist_server::ServerConfig;

use crate::support::{Client as _, Reply, Server, config, request};

/// A server that lets nobody in without a key.
fn locked() -> Server {
    Server::with_config(ServerConfig {
        api_keys: vec!["secret".to_owned()],
        ..config()
    })
}

/// What a file refers to: every quoted path of ours.
fn references(text: &str) -> BTreeSet<String> {
    let quoted = text.split('"').skip(1).step_by(2);
    let own = quoted.filter_map(|quoted| {
        let name = quoted.strip_prefix("/ui/").or(quoted.strip_prefix("./"))?;
        Some(format!("/ui/{name}"))
    });
    own.collect()
}

/// The page and all it refers to, directly or not.
async fn files(server: &Server) -> Vec<(String, Reply)> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::from(["/".to_owned()]);
    let mut next = vec!["/".to_owned()];
    while let Some(path) = next.pop() {
        let reply = server.get(&path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        for other in references(&reply.body) {
            if seen.insert(other.clone()) {
                next.push(other);
            }
        }
        files.push((path, reply));
    }
    files
}

async fn conditional(server: &Server, path: &str, tags: &str) -> Reply {
    let mut request = request(Method::GET, path, Body::empty());
    let tags = tags.parse().unwrap();
    request.headers_mut().insert("if-none-match", tags);
    server.send(request).await
}

#[tokio::test]
async fn every_file_of_the_page_is_there_without_a_key() {
    let files = files(&locked()).await;
    assert!(files.len() > 10, "the page refers to its files");
    for (path, reply) in &files {
        let expected = match path.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(reply.headers["content-type"], expected, "{path}");
        assert_eq!(reply.headers["x-content-type-options"], "nosniff", "{path}");
    }
}

#[tokio::test]
async fn what_is_no_file_of_the_page_needs_the_key() {
    let server = locked();
    for path in [
        "/ui",
        "/ui/",
        "/ui/secret.js",
        "/ui/../v1/models",
        "/index.html",
        "/v1/models",
    ] {
        assert_eq!(
            server.get(path).await.status,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
    let posted = server.post_text("/", "{}").await;
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn the_page_may_load_from_its_own_server_alone() {
    for (path, reply) in files(&Server::start()).await {
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        let parts: Vec<&str> = policy.split("; ").collect();
        assert!(parts.contains(&"default-src 'self'"), "{path}: {policy}");
        assert!(parts.contains(&"img-src 'self' data:"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        // The name of a vocabulary, which nobody loads.
        let text = reply.body.replace("http://www.w3.org/2000/svg", "");
        let hosts = ["http://", "https://", "\"//"].map(|start| text.contains(start));
        assert_eq!(hosts, [false; 3], "{path} names another host");
    }
}

#[tokio::test]
async fn no_script_makes_elements_of_text() {
    for (path, reply) in files(&Server::start()).await {
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "srcdoc",
            "new Function",
        ] {
            assert!(!reply.body.contains(way), "{path} uses {way}");
        }
        assert!(
            !reply.body.contains("<script>") && !reply.body.contains(" style=\""),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_file_the_browser_has_is_not_sent_again() {
    let server = Server::start();
    let mut tags = BTreeSet::new();
    for (path, reply) in files(&server).await {
        let tag = reply.headers["etag"].to_str().unwrap().to_owned();
        assert_eq!(reply.headers["cache-control"], "no-cache", "{path}");
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"old\", {tag}"),
            "*".to_owned(),
        ] {
            let again = conditional(&server, &path, &known).await;
            assert_eq!(
                (again.status, &*again.body),
                (StatusCode::NOT_MODIFIED, ""),
                "{known}"
            );
            assert_eq!(again.headers["etag"], tag.as_str());
        }
        assert_eq!(
            conditional(&server, &path, "\"old\"").await.body,
            reply.body
        );
        assert!(tags.insert(tag), "{path} has the tag of another file");
    }
}

#[tokio::test]
async fn every_language_says_the_same_things() {
    let strings = Server::start().get("/ui/strings.js").await.body;
    // Keys of a table, each with the names of the values it takes.
    let keys = |table: &str| -> BTreeSet<(String, BTreeSet<String>)> {
        let lines = table
            .lines()
            .filter_map(|line| line.trim().split_once(": \""));
        let said = lines.map(|(key, text)| {
            let names = text
                .split('{')
                .skip(1)
                .filter_map(|rest| rest.split_once('}'));
            let names = names.map(|(name, _)| name.to_owned()).collect();
            (key.trim_matches('"').to_owned(), names)
        });
        said.collect()
    };
    let (_, tables) = strings.split_once("const EN = {").unwrap();
    let (english, rest) = tables.split_once("const ZH = {").unwrap();
    let (chinese, _) = rest.split_once("};").unwrap();
    assert!(keys(english).len() > 100, "the table of English was found");
    assert_eq!(keys(english), keys(chinese));
}
