//! As much of an HTTP client as talking to a program on this machine takes.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A long prompt on a slow machine takes minutes.
const PATIENCE: Duration = Duration::from_secs(600);

/// A server on a loopback port.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Its port.
    pub port: u16,
}

impl Server {
    /// Whether the path answers with 200.
    pub fn is_ready(self, path: &str) -> bool {
        self.exchange("GET", path, "")
            .is_ok_and(|(status, _)| status == 200)
    }

    /// Posts JSON; any status but 200 is an error.
    pub fn post(self, path: &str, body: &Value) -> Result<Value, Box<dyn Error>> {
        let (status, answer) = self.exchange("POST", path, &body.to_string())?;
        if status != 200 {
            return Err(format!("{path} answered {status}: {answer}").into());
        }
        Ok(serde_json::from_str(&answer)?)
    }

    fn exchange(self, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0: the answer comes in one piece and ends with the connection.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        parse(&answer).ok_or_else(|| io::Error::other(format!("not an HTTP answer: {answer:?}")))
    }
}

/// Status and body.
fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some((status.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn a_request_and_its_answer_cross_a_socket() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 512];
            let len = stream.read(&mut request).expect("a request");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"tokens\":[1]}")
                .expect("sent");
            String::from_utf8_lossy(&request[..len]).into_owned()
        });
        let answer = Server { port }.post("/tokenize", &serde_json::json!({"content": "x"}));
        assert_eq!(answer.expect("a good answer")["tokens"][0], 1);
        let request = server.join().expect("the server does not panic");
        assert!(
            request.starts_with("POST /tokenize HTTP/1.0\r\n"),
            "{request}"
        );
        assert!(
            request.ends_with("\r\n\r\n{\"content\":\"x\"}"),
            "{request}"
        );
    }

    #[test]
    fn only_http_is_parsed() {
        assert_eq!(
            parse("HTTP/1.0 404 Not Found\r\n\r\nno"),
            Some((404, "no".to_owned()))
        );
        assert_eq!(parse("SSH-2.0\r\n\r\n"), None);
    }
}
