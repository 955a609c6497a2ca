//! Files, threads and memory of the process after clients of every bad kind. A process of its own: the
//! numbers are the process's, and no other test may move them.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // shared with tests/api
#[path = "../api/support.rs"]
mod support;
#[allow(dead_code)] // shared with tests/checklist
#[path = "../checklist/wire.rs"]
mod wire;

use std::fs;

use kvist_engine::faults::{Fault, When};
use kvist_server::HttpLimits;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use wire::{Live, SHORT, read_to_end, read_until};

/// Open files, threads, and bytes of memory of this process.
fn held() -> (usize, usize, usize) {
    let count = |dir: &str| fs::read_dir(dir).unwrap().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|line| line.split_whitespace().next());
    let bytes = kib.unwrap().parse::<usize>().unwrap() << 10;
    (count("/proc/self/fd"), count("/proc/self/task"), bytes)
}

/// One client of each bad kind.
async fn trouble(live: &Live) {
    const PATH: &str = "/v1/completions";
    let body =
        json!({"prompt": "ba", "max_tokens": 30, "ignore_eos": true, "stream": true, "n": 4});
    live.exchange("no http\r\n\r\n").await;
    live.exchange(format!(
        "GET / HTTP/1.1\r\nx: {}\r\n\r\n",
        "y".repeat(200_000)
    ))
    .await;
    live.post(PATH, &json!({"prompt": 7})).await;
    live.post(PATH, &json!({"prompt": "x".repeat(1 << 20)}))
        .await;
    let mut slow = live.connect().await;
    slow.write_all(b"GET /hea").await.unwrap();
    let mut leaver = live.send(PATH, &body).await;
    read_until(&mut leaver, "data: ").await;
    drop(leaver);
    live.faults.plan(When::Next, Fault::Refuse);
    let mut failed = live.send(PATH, &body).await;
    read_to_end(&mut failed).await;
    read_to_end(&mut slow).await;
    live.is_whole().await;
}

#[tokio::test]
async fn bad_clients_leave_no_file_no_thread_and_no_memory() {
    let limits = HttpLimits {
        header_time_max: SHORT,
        ..HttpLimits::default()
    };
    let live = Live::limited(limits).await;
    for _ in 0..5 {
        trouble(&live).await;
    }
    let before = held();
    for _ in 0..20 {
        trouble(&live).await;
    }
    let mut after = held();
    // A connection's end may take the system a moment.
    for _ in 0..500 {
        if after.0 <= before.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        after = held();
    }
    assert!(after.0 <= before.0, "files: {before:?}, then {after:?}");
    assert!(after.1 <= before.1, "threads: {before:?}, then {after:?}");
    // Twenty rounds of a mebibyte of body each, and of answers: kept, they would show.
    assert!(
        after.2 <= before.2 + (8 << 20),
        "memory: {before:?}, then {after:?}"
    );
}
