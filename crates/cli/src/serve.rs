//! `kvist serve`: plan, load, listen, drain.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::process;
use std::time::{Instant, SystemTime};

use kvist_engine::plan::{Limits, Machine};
use kvist_engine::{
    Cores, Engine, EngineHandle, EngineOptions, EngineStatus, Fleet, FleetModel, ShutdownReport,
    plan_file,
};
use kvist_server::{EngineLimits, Models, ServerConfig, UnknownFields, check_tls};

use crate::args::{ApiKeyArgs, FairShareArg, ServeArgs};
use crate::environment::Environment;
use crate::error::{CliError, does_not_fit};
use crate::exit::Exit;
use crate::model_ref;
use crate::plan::notes;
use crate::session;
use crate::signals::{StopSignals, report_on_quit};
use crate::terminal::{print, say};

/// Keys longer than this are a wrong file, not a key.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;

pub(crate) fn run(args: &ServeArgs, environment: &Environment) -> Result<Exit, CliError> {
    if args.http.print_limits {
        return print_limits(args);
    }
    refuse_model_among_names(args)?;
    let api_keys = read_keys(&args.keys)?;
    let addresses = resolve(&args.host, args.port)?;
    if api_keys.is_empty() && !args.insecure_no_auth {
        refuse_open_door(&args.host, &addresses)?;
    }
    if args.fair_share == FairShareArg::Key && api_keys.is_empty() {
        let what = "--fair-share key shares the work between keys, but there are none";
        return Err(CliError::new(Exit::Usage, what).fix("--api-key-file FILE"));
    }
    let tls = args.http.tls();
    if let Some(files) = &tls {
        check_tls(files).map_err(|error| {
            let what = "HTTPS cannot be served with these files";
            CliError::new(Exit::Usage, what)
                .because(error.to_string())
                .fix("--tls-cert FILE --tls-key FILE    PEM files that belong together")
        })?;
    }
    // Before the model is loaded: a port in use is known at once, and nobody else can take it.
    let listener = listen(&addresses, args)?;
    let models = models(args, environment)?;
    let backend = Backend::load(args, &models, environment)?;
    let config = ServerConfig {
        served_names: models[0].names.clone(),
        api_keys,
        allowed_hosts: args.http.allowed_hosts.clone(),
        cors_origins: args.http.cors_origin.clone(),
        tls,
        limits: args.http.limits(),
        version: env!("CARGO_PKG_VERSION"),
        started: SystemTime::now(),
        seed: args.seed,
        output_default: args.max_tokens,
        fair_share: args.fair_share.fair_share(),
        parsers: args.parsers(),
        unknown_fields: match args.strict {
            true => UnknownFields::Refuse,
            false => UnknownFields::Report,
        },
        idle_unload: args.idle_unload.time(),
    };
    let names = models.iter().filter_map(|model| model.names.first());
    announce(&listener, names, &config).map_err(|error| session::system_error(&error))?;
    serve_until_stopped(&backend, listener, config)?;
    let failed = match backend.models_status() {
        EngineStatus::Failed(fault) => Some(fault),
        EngineStatus::Ready | EngineStatus::Draining => None,
    };
    let report = session::checked(backend.shut_down())?;
    say(&format!(
        "stopped: {} requests, {} failed, KV blocks {}/{} free",
        report.accepted, report.failed, report.blocks_free.0, report.blocks_total.0
    ));
    // A supervisor starts another one.
    failed.map_or(Ok(Exit::Ok), |fault| Err(CliError::from(fault)))
}

/// The table of limits, as the flags set them.
fn print_limits(args: &ServeArgs) -> Result<Exit, CliError> {
    let engine = EngineLimits {
        running_max: u64::from(args.batch.max_num_seqs),
        waiting_max: args.max_waiting as u64,
        waiting_tokens_max: args.max_waiting_tokens,
    };
    let rows = kvist_server::limits(&args.http.limits(), engine);
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    print(&lines.concat()).map_err(|error| session::system_error(&error))?;
    Ok(Exit::Ok)
}

/// What serves: one model that is always there, or several under one budget.
enum Backend {
    One(Engine),
    Several(Fleet),
}

impl Backend {
    /// Shows the plans, then loads what they promise.
    fn load(
        args: &ServeArgs,
        models: &[FleetModel],
        environment: &Environment,
    ) -> Result<Self, CliError> {
        let machine = session::machine()?;
        let cores = Cores::of_process();
        if args.memory.threads.is_none() && cores.leaves_nodes_idle() {
            say(&format!("note: {cores}"));
        }
        let options = EngineOptions {
            limits: Limits {
                structured_outputs: args.structured.is_on(),
                ..args.memory.limits(&args.batch, &machine)?
            },
            waiting_max: args.max_waiting,
            waiting_tokens_max: args.max_waiting_tokens,
            prefix_caching: args.prefix_caching.is_on(),
            kv_idle_release: args.kv_idle_release.time(),
            admission: args.admission.admission(),
            fairness: args.fair_share.fairness(),
            tier: args.tier(),
            isa: args.compute.isa(environment)?,
            speculation: args.speculation.speculation(),
            draft: args.speculation.draft(args.network, environment)?,
            ..EngineOptions::default()
        };
        match models {
            [one] => load_one(&one.path, &machine, &options).map(Self::One),
            several => load_several(several.to_vec(), &machine, &options).map(Self::Several),
        }
    }

    fn models(&self) -> Models {
        match self {
            Self::One(engine) => engine.handle().into(),
            Self::Several(fleet) => fleet.clone().into(),
        }
    }

    fn models_status(&self) -> EngineStatus {
        match self {
            Self::One(engine) => engine.handle().status(),
            Self::Several(fleet) => fleet.status(),
        }
    }

    /// A way to the engines there are at the time it is asked.
    fn engines(&self) -> Box<dyn Fn() -> Vec<EngineHandle> + Send> {
        match self {
            Self::One(engine) => {
                let engine = engine.handle();
                Box::new(move || vec![engine.clone()])
            }
            Self::Several(fleet) => {
                let fleet = fleet.clone();
                Box::new(move || {
                    fleet
                        .engines()
                        .into_iter()
                        .map(|(_, engine)| engine)
                        .collect()
                })
            }
        }
    }

    fn shut_down(self) -> ShutdownReport {
        match self {
            Self::One(engine) => engine.shutdown(),
            Self::Several(fleet) => fleet.shutdown(),
        }
    }
}

/// The models of the command line, with the names each is known by.
fn models(args: &ServeArgs, environment: &Environment) -> Result<Vec<FleetModel>, CliError> {
    let texts: Vec<Option<&str>> = match args.models.as_slice() {
        [] => vec![None],
        some => some.iter().map(|text| Some(text.as_str())).collect(),
    };
    let mut models = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        let path = model_ref::resolve_text(text, args.network, environment)?;
        let names = match args.served_model_name.as_slice() {
            given @ [_, ..] if index == 0 => given.to_vec(),
            _ => own_names(text, &path),
        };
        models.push(FleetModel { names, path });
    }
    Ok(models)
}

fn load_one(path: &Path, machine: &Machine, options: &EngineOptions) -> Result<Engine, CliError> {
    let planned = plan_file(path, machine, &options.limits_for(path)?)?;
    if !planned.plan.fits() {
        return Err(does_not_fit(&planned.plan));
    }
    say(&format!("{}", planned.plan));
    notes(&planned).for_each(|note| say(&format!("note: {note}")));
    let begun = Instant::now();
    let engine = session::load(path, machine, options)?;
    say_loaded("loaded", begun, &engine.handle());
    Ok(engine)
}

/// Plans all, and loads those that fit beside each other, in order: the first one always does.
fn load_several(
    models: Vec<FleetModel>,
    machine: &Machine,
    options: &EngineOptions,
) -> Result<Fleet, CliError> {
    let fleet = Fleet::plan(models, machine, options)?;
    for member in fleet.members() {
        say(&format!("{}", member.plan));
        member
            .notes
            .iter()
            .for_each(|note| say(&format!("note: {note}")));
    }
    let begun = Instant::now();
    fleet.load_what_fits()?;
    let loaded = fleet.engines();
    for (index, engine) in &loaded {
        say_loaded(fleet.members()[*index].name(), begun, engine);
    }
    say(&format!(
        "{} of {} models in memory, {} for all; the others are loaded when they are asked for",
        loaded.len(),
        fleet.members().len(),
        fleet.budget()
    ));
    Ok(fleet)
}

fn say_loaded(what: &str, begun: Instant, engine: &EngineHandle) {
    let info = engine.info();
    let seconds = begun.elapsed().as_secs_f64();
    say(&format!(
        "{what} in {seconds:.1} s: {}, {} threads",
        info.isa, info.threads
    ));
}

/// `--served-model-name` takes all words up to the next flag, as vLLM's does, and with them a MODEL
/// that comes after it: the default model would be served under the name of another.
fn refuse_model_among_names(args: &ServeArgs) -> Result<(), CliError> {
    let is_model = |name: &&String| name.starts_with("hf:") || Path::new(name).exists();
    match args.served_model_name.iter().find(is_model) {
        Some(name) if args.models.is_empty() => {
            let what = format!("{name} would be a name of the default model, not the model");
            Err(CliError::new(Exit::Usage, what)
                .because("--served-model-name takes every word up to the next flag")
                .fix(format!("kvist serve {name} --served-model-name NAME")))
        }
        _ => Ok(()),
    }
}

/// The model's name as the user knows it.
fn own_names(text: Option<&str>, path: &Path) -> Vec<String> {
    match text {
        // A path is nobody's name for a model; what the file is called comes closest.
        Some(model) if !Path::new(model).exists() => vec![model.to_owned()],
        Some(_) => {
            let stem = path.file_stem();
            stem.map(|stem| stem.to_string_lossy().into_owned())
                .into_iter()
                .collect()
        }
        None => vec![crate::catalogue::DEFAULT_MODEL.name.to_owned()],
    }
}

fn announce<'a>(
    listener: &TcpListener,
    names: impl Iterator<Item = &'a String>,
    config: &ServerConfig,
) -> io::Result<()> {
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let base = format!("{scheme}://{}", listener.local_addr()?);
    let key = if config.api_keys.is_empty() {
        "none needed"
    } else {
        "needed"
    };
    let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    let names = names.join(", ");
    say(&format!(
        "\nOpenAI API   {base}/v1    model {names}    key: {key}"
    ));
    say(&format!("Page         {base}/    chat and memory map"));
    say(&format!("Metrics      {base}/metrics"));
    say("Ctrl-C finishes what runs and stops; once more stops at once.");
    Ok(())
}

fn serve_until_stopped(
    backend: &Backend,
    listener: TcpListener,
    config: ServerConfig,
) -> Result<(), CliError> {
    let system = |error: io::Error| session::system_error(&error);
    listener.set_nonblocking(true).map_err(system)?;
    session::runtime()?.block_on(async {
        let mut signals = StopSignals::listen().map_err(system)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(system)?;
        let engines = backend.engines();
        let looked_at = backend.engines();
        report_on_quit(move || looked_at().iter().for_each(say_state)).map_err(system)?;
        let stop = async move {
            signals.next().await;
            let now: Vec<_> = engines().iter().map(EngineHandle::metrics).collect();
            let running: usize = now.iter().map(|now| now.running).sum();
            let waiting: usize = now.iter().map(|now| now.waiting).sum();
            say(&format!("draining: {running} running, {waiting} waiting"));
            tokio::spawn(async move {
                signals.next().await;
                say("stopped at once: unfinished requests are lost");
                process::exit(i32::from(Exit::Interrupted.code()));
            });
        };
        kvist_server::serve(listener, backend.models(), config, stop)
            .await
            .map_err(system)
    })
}

/// What an engine is at, on one line.
fn say_state(engine: &EngineHandle) {
    let now = engine.metrics();
    let step = engine
        .stalled()
        .map_or("none".to_owned(), |time| format!("for {time:.1?}"));
    say(&format!(
        "{}: {:?}, {} running, {} waiting, step {step}, KV blocks {} free {} cached {} held of {}, \
         {} accepted, {} failed",
        engine.info().name,
        engine.status(),
        now.running,
        now.waiting,
        now.blocks_free,
        now.blocks_cached,
        now.blocks_held,
        now.blocks_total,
        now.accepted,
        now.finished.failed
    ));
}

/// Keys of the flags and the file, which has one a line; empty lines and `#` comments are skipped.
pub(crate) fn read_keys(args: &ApiKeyArgs) -> Result<Vec<String>, CliError> {
    let mut keys = args.api_key.clone();
    if let Some(path) = &args.api_key_file {
        let bad = |why: String| {
            CliError::new(
                Exit::Usage,
                format!("{} cannot be used as a key file", path.display()),
            )
            .because(why)
            .fix("a text file with one key a line")
        };
        let size = fs::metadata(path)
            .map_err(|error| bad(error.to_string()))?
            .len();
        if size > KEY_FILE_BYTES_MAX {
            return Err(bad(format!(
                "it has {size} bytes; {KEY_FILE_BYTES_MAX} are allowed"
            )));
        }
        let text = fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let lines = text.lines().map(str::trim);
        let before = keys.len();
        keys.extend(
            lines
                .filter(|l| !l.is_empty() && !l.starts_with('#'))
                .map(str::to_owned),
        );
        if keys.len() == before {
            // Serving without a key because a file is empty would be the opposite of what was meant.
            return Err(bad("it holds no key".to_owned()));
        }
    }
    if keys.iter().any(|key| key.trim().is_empty()) {
        return Err(CliError::new(Exit::Usage, "an API key is empty")
            .because("an empty key would open the door to everybody")
            .fix("leave --api-key out to serve this machine alone"));
    }
    Ok(keys)
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, CliError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (bare, port).to_socket_addrs().map(Vec::from_iter);
    let reason = match addresses {
        Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
        Ok(_) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(CliError::new(
        Exit::Usage,
        format!("--host {host} is not an address of this machine"),
    )
    .because(reason)
    .fix("--host 127.0.0.1    this machine only")
    .fix("--host 0.0.0.0      every network, with --api-key-file FILE"))
}

/// Whoever can reach an open server can use it, and read what others are answered.
fn refuse_open_door(host: &str, addresses: &[SocketAddr]) -> Result<(), CliError> {
    if addresses.iter().all(|address| address.ip().is_loopback()) {
        return Ok(());
    }
    Err(CliError::new(
        Exit::Usage,
        format!("--host {host} would serve other machines without a key"),
    )
    .because("anybody who can reach this machine could use the model")
    .fix("--api-key-file FILE     a key for each client")
    .fix("--host 127.0.0.1        this machine only")
    .fix("--insecure-no-auth      if that is what you want"))
}

fn listen(addresses: &[SocketAddr], args: &ServeArgs) -> Result<TcpListener, CliError> {
    let (host, port) = (&args.host, args.port);
    TcpListener::bind(addresses).map_err(|error| {
        let what = format!("cannot listen on {host}:{port}");
        match error.kind() {
            io::ErrorKind::AddrInUse => CliError::new(Exit::AddressInUse, what)
                .because("another program listens there")
                .fix(format!("--port {}", port.checked_add(1).unwrap_or(8000)))
                .fix("--port 0    any free one"),
            io::ErrorKind::PermissionDenied => CliError::new(Exit::Usage, what)
                .because(error.to_string())
                .fix("a port from 1024 on: --port 8000"),
            _ => CliError::new(Exit::Usage, what)
                .because(error.to_string())
                .fix("--host 127.0.0.1"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(flags: &[&str], file: Option<&str>) -> Result<Vec<String>, CliError> {
        let path = std::env::temp_dir().join(format!(
            "kvist-keys-{}-{:?}",
            process::id(),
            std::thread::current().id()
        ));
        let api_key_file = file.map(|text| {
            fs::write(&path, text).unwrap();
            path.clone()
        });
        let api_key = flags.iter().map(|&key| key.to_owned()).collect();
        let read = read_keys(&ApiKeyArgs {
            api_key,
            api_key_file,
        });
        let _ = fs::remove_file(&path);
        read
    }

    #[test]
    fn keys_come_from_flags_and_file_together() {
        assert_eq!(keys(&[], None).unwrap(), Vec::<String>::new());
        let read = keys(&["a"], Some("# ours\n\n  b \r\nc")).unwrap();
        assert_eq!(read, ["a", "b", "c"]);
    }

    #[test]
    fn a_key_that_opens_to_everybody_is_refused() {
        for (flags, file) in [(&[""][..], None), (&[" "], None), (&[], Some("\n# none\n"))] {
            assert_eq!(
                keys(flags, file).unwrap_err().exit,
                Exit::Usage,
                "{flags:?} {file:?}"
            );
        }
        let missing = ApiKeyArgs {
            api_key: vec![],
            api_key_file: Some("/no/such/file".into()),
        };
        assert_eq!(read_keys(&missing).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn only_loopback_may_be_open() {
        let refused = |host: &str| refuse_open_door(host, &resolve(host, 1).unwrap()).is_err();
        assert!(!refused("127.0.0.1") && !refused("[::1]") && !refused("127.8.9.10"));
        assert!(refused("0.0.0.0") && refused("::") && refused("192.168.1.2"));
        assert_eq!(resolve("no such host", 1).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_port_in_use_has_its_own_exit_code() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let command =
            crate::args::Cli::parse_for_test(&format!("kvist serve --port {}", address.port()));
        let crate::args::Command::Serve(args) = command else {
            panic!()
        };
        let error = listen(&[address], &args).unwrap_err();
        assert_eq!(error.exit, Exit::AddressInUse);
        assert!(error.to_string().contains("--port"), "{error}");
    }
}
