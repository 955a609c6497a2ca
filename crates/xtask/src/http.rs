//! As much of an HTTP/1.1 client as talking to a program on this machine takes.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A long prompt on a slow machine takes minutes.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Lines of a head and sizes of chunks are read up to this: what is longer is not HTTP.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// A server on a loopback port.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Its port.
    pub port: u16,
}

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// JSON, or nothing.
    pub body: &'a str,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body of a 200; any other status is an error.
    pub fn json(&self, path: &str) -> Result<Value, Box<dyn Error>> {
        if self.status == 200 {
            return Ok(serde_json::from_str(&self.body)?);
        }
        Err(format!("{path} answered {}: {}", self.status, self.body).into())
    }
}

impl Server {
    /// A connection that takes one request after the other.
    pub fn connect(self) -> io::Result<Connection> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream: BufReader::new(stream),
            ends: false,
        })
    }

    /// One request on a connection of its own.
    pub fn ask(self, request: &Request) -> io::Result<Answer> {
        self.connect()?.ask(request)
    }

    /// Gets a path, whatever the status.
    pub fn get(self, path: &str) -> io::Result<Answer> {
        self.ask(&Request {
            method: "GET",
            path,
            body: "",
        })
    }

    /// Whether the path answers with 200.
    pub fn is_ready(self, path: &str) -> bool {
        self.get(path).is_ok_and(|answer| answer.status == 200)
    }

    /// Posts JSON; any status but 200 is an error.
    pub fn post(self, path: &str, body: &Value) -> Result<Value, Box<dyn Error>> {
        let body = &body.to_string();
        let method = "POST";
        self.ask(&Request { method, path, body })?.json(path)
    }
}

/// A connection that is kept open between requests.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    ends: bool,
}

impl Connection {
    /// Whether the server said it takes no further request here.
    pub fn ends(&self) -> bool {
        self.ends
    }

    /// Sends a request and reads the whole answer.
    pub fn ask(&mut self, request: &Request) -> io::Result<Answer> {
        let (status, mut body) = self.begin(request)?;
        let mut text = String::new();
        body.read_to_string(&mut text)?;
        Ok(Answer { status, body: text })
    }

    /// Sends a request and reads the answer up to its body, which has to be read to its end before
    /// the next request; else the connection must be dropped.
    pub fn begin(&mut self, request: &Request) -> io::Result<(u16, Body<'_>)> {
        let Request { method, path, body } = request;
        let sent = self.stream.get_mut().write_all(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        // A server that refuses without reading all may close its side: its answer is there still.
        let (status, framing) = match (self.read_head(), sent) {
            (Ok(head), _) => head,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
        };
        let stream = &mut self.stream;
        Ok((status, Body { stream, framing }))
    }

    fn read_head(&mut self) -> io::Result<(u16, Framing)> {
        let first = read_line(&mut self.stream)?;
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
            .ok_or_else(|| io::Error::other(format!("not an HTTP answer: {first:?}")))?;
        let mut framing = Framing::ToEnd;
        self.ends = first.starts_with("HTTP/1.0");
        loop {
            let line = read_line(&mut self.stream)?.to_ascii_lowercase();
            match line
                .split_once(':')
                .map(|(name, value)| (name, value.trim()))
            {
                None if line.is_empty() => break,
                Some(("content-length", value)) => {
                    framing = Framing::Length(value.parse().map_err(io::Error::other)?);
                }
                Some(("transfer-encoding", "chunked")) => framing = Framing::Chunk(0),
                Some(("connection", "close")) => self.ends = true,
                _ => {}
            }
        }
        self.ends |= framing == Framing::ToEnd;
        Ok((status, framing))
    }
}

/// How much of a body is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    /// Rest of a chunk; then more chunks.
    Chunk(u64),
    /// Whatever comes before the connection ends.
    ToEnd,
}

/// The body of an answer, as it arrives.
#[derive(Debug)]
pub struct Body<'c> {
    stream: &'c mut BufReader<TcpStream>,
    framing: Framing,
}

impl Body<'_> {
    /// Calls `event` with the data of each server-sent event, up to the end of the body or until
    /// it returns false. Says whether the end was reached.
    pub fn events(self, mut event: impl FnMut(&str) -> bool) -> io::Result<bool> {
        for line in BufReader::new(self).lines() {
            if let Some(data) = line?.strip_prefix("data: ")
                && !event(data)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Read for Body<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.framing == Framing::Chunk(0) {
            self.framing = match next_chunk(self.stream)? {
                0 => Framing::Length(0),
                len => Framing::Chunk(len),
            };
        }
        let rest = match &mut self.framing {
            Framing::Length(rest) | Framing::Chunk(rest) => rest,
            Framing::ToEnd => return self.stream.read(out),
        };
        let len = self.stream.by_ref().take(*rest).read(out)?;
        if len == 0 && *rest > 0 && !out.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *rest -= len as u64;
        if self.framing == Framing::Chunk(0) {
            read_line(self.stream)?; // behind each chunk
        }
        Ok(len)
    }
}

/// The size of the next chunk. Behind the last one, which is empty, stands an empty line.
fn next_chunk(stream: &mut impl BufRead) -> io::Result<u64> {
    let line = read_line(stream)?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    let len = u64::from_str_radix(digits, 16)
        .map_err(|_| io::Error::other(format!("not the size of a chunk: {line:?}")))?;
    if len == 0 {
        read_line(stream)?;
    }
    Ok(len)
}

/// A line without its end. The end of the stream is an error.
fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(text) => Ok(text.trim_end_matches('\r').to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    /// A server that answers each request on its one connection with the next of `answers`, and
    /// gives back what it was sent.
    fn scripted(answers: &'static [&'static str]) -> (Server, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut requests = Vec::new();
            for answer in answers {
                let mut request = [0; 512];
                let len = stream.read(&mut request).expect("a request");
                requests.push(String::from_utf8_lossy(&request[..len]).into_owned());
                stream.write_all(answer.as_bytes()).expect("sent");
            }
            requests
        });
        (Server { port }, thread)
    }

    #[test]
    fn a_request_and_its_answer_cross_a_socket() {
        let (server, thread) = scripted(&["HTTP/1.0 200 OK\r\nA: b\r\n\r\n{\"tokens\":[1]}"]);
        let answer = server.post("/tokenize", &serde_json::json!({"content": "x"}));
        assert_eq!(answer.expect("a good answer")["tokens"][0], 1);
        let request = &thread.join().expect("the server does not panic")[0];
        assert!(
            request.starts_with("POST /tokenize HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.ends_with("\r\n\r\n{\"content\":\"x\"}"),
            "{request}"
        );
    }

    #[test]
    fn a_connection_is_kept_over_bodies_of_every_kind() {
        let (server, thread) = scripted(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             6\r\ndata: \r\n7;x=y\r\none\n\nda\r\n7\r\nta: two\r\n1\r\n\n\r\n0\r\n\r\n",
            "HTTP/1.1 429 Too Many\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        ]);
        let mut connection = server.connect().expect("listening");
        let request = Request {
            method: "GET",
            path: "/",
            body: "",
        };
        let whole = connection.ask(&request).expect("an answer");
        assert_eq!((whole.status, whole.body.as_str()), (200, "ab"));
        let (_, body) = connection.begin(&request).expect("an answer");
        let mut events = Vec::new();
        let keep = |data: &str| {
            events.push(data.to_owned());
            true
        };
        assert!(body.events(keep).expect("to its end"));
        assert_eq!(events, ["one", "two"]);
        assert!(!connection.ends());
        assert_eq!(connection.ask(&request).expect("an answer").status, 429);
        assert!(connection.ends());
        assert_eq!(thread.join().expect("no panic").len(), 3);
    }

    #[test]
    fn what_is_cut_short_or_not_http_is_an_error() {
        for answer in [
            &["SSH-2.0\r\n\r\n"] as &'static [_],
            &["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
            &["HTTP/1.1 200 OK\r\nContent-"],
        ] {
            let (server, thread) = scripted(answer);
            assert!(server.get("/").is_err(), "{answer:?}");
            thread.join().expect("no panic");
        }
    }
}
