#![allow(clippy::unwrap_used)]

use clap::error::ErrorKind;
use kvist_base::{Bytes, KvDtype, Tokens};
use kvist_engine::Isa;
use kvist_plan::{Limits, Machine, MemoryLimit, Offload};

use super::*;
use crate::environment::Environment;

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
}

fn machine() -> Machine {
    Machine {
        mem_total: Bytes::GIB * 8,
        mem_available: Bytes::GIB * 6,
        cgroup_limit: None,
        cgroup_used: None,
        cores: 6,
    }
}

fn serve(line: &str) -> ServeArgs {
    match parse(line).unwrap() {
        Command::Serve(args) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    command().debug_assert();
}

#[test]
fn without_flags_the_limits_are_the_planners_own() {
    let args = serve("kvist serve");
    let expected = Limits {
        threads: 6,
        ..Limits::default()
    };
    assert_eq!(
        args.memory.limits(&args.batch, &machine()).unwrap(),
        expected
    );
    assert!(args.prefix_caching.is_on());
    assert_eq!((args.host.as_str(), args.port), ("127.0.0.1", 8000));
    assert_eq!(
        args.max_waiting,
        kvist_engine::EngineOptions::default().waiting_max
    );
}

#[test]
fn every_limit_has_its_flag() {
    let args = serve(
        "kvist serve m.gguf --memory 6GiB --max-model-len 16k --max-num-seqs 3 \
         --max-num-batched-tokens 256 --block-size 32 --kv-cache-dtype f32 --threads 2",
    );
    let expected = Limits {
        memory: MemoryLimit::Absolute(Bytes::GIB * 6),
        model_len: Some(Tokens(16_384)),
        running_max: 3,
        step_tokens_max: Tokens(256),
        block_size: Tokens(32),
        kv_dtype: KvDtype::F32,
        threads: 2,
        ..Limits::default()
    };
    assert_eq!(
        args.memory.limits(&args.batch, &machine()).unwrap(),
        expected
    );
    let share = serve("kvist serve --gpu-memory-utilization 0.4 --ctx auto");
    let limits = share.memory.limits_for_one(&machine()).unwrap();
    assert_eq!(
        (limits.memory, limits.running_max),
        (MemoryLimit::Fraction(0.4), 1)
    );
}

#[test]
fn kv_dtypes_go_by_several_names() {
    for (names, expected) in [
        (&["auto", "f16", "fp16"][..], KvDtype::F16),
        (&["bf16", "bfloat16"], KvDtype::BF16),
        (&["q8_0", "q8", "int8"], KvDtype::Q8_0),
        (&["f32", "fp32"], KvDtype::F32),
    ] {
        for name in names {
            let args = serve(&format!("kvist serve --kv-cache-dtype {name}"));
            let limits = args.memory.limits(&args.batch, &machine()).unwrap();
            assert_eq!(limits.kv_dtype, expected, "{name}");
        }
    }
}

#[test]
fn weights_are_streamed_on_request() {
    let offload = |flags: &str| {
        let args = serve(&format!("kvist serve {flags}"));
        args.memory.limits(&args.batch, &machine()).unwrap().offload
    };
    assert_eq!(offload(""), Offload::Off);
    assert_eq!(offload("--load copy --cpu-offload-gb 0"), Offload::Off);
    assert_eq!(offload("--offload-weights"), Offload::Auto);
    let least = Offload::AtLeast(Bytes::MIB * 1536);
    assert_eq!(offload("--cpu-offload-gb 1.5"), least);
    assert_eq!(offload("--offload-weights --cpu-offload-gb 1.5"), least);
    assert_eq!(offload("--load mmap"), Offload::All);
    for bad in ["-1", "nan", "inf", "1e10", "x"] {
        let flag = format!("--cpu-offload-gb={bad}");
        assert!(
            Cli::try_parse_from(["kvist", "serve", &flag]).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn of_two_prefix_caching_flags_the_last_counts() {
    assert!(
        !serve("kvist serve --no-prefix-caching")
            .prefix_caching
            .is_on()
    );
    assert!(
        !serve("kvist serve --enable-prefix-caching --no-prefix-caching")
            .prefix_caching
            .is_on()
    );
    assert!(
        serve("kvist serve --no-prefix-caching --enable-prefix-caching")
            .prefix_caching
            .is_on()
    );
}

#[test]
fn a_pool_of_a_given_size_has_its_flag() {
    let args = serve("kvist serve --kv-cache-memory-bytes 512MiB");
    let limits = args.memory.limits(&args.batch, &machine()).unwrap();
    assert_eq!(limits.kv_cache, Some(Bytes::MIB * 512));
}

#[test]
fn two_budgets_are_refused_with_both() {
    let args = serve("kvist serve --memory 6GiB --gpu-memory-utilization 0.4");
    let error = args.memory.limits(&args.batch, &machine()).unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert_eq!(
        error.what,
        "--memory 6.00 GiB and --gpu-memory-utilization 0.4 both set the budget"
    );
    assert!(args.memory.limits_for_one(&machine()).is_err());
}

#[test]
fn wrong_command_lines_are_refused() {
    for line in [
        "kvist serve --memory lots",
        "kvist serve --max-model-len 0",
        "kvist serve --port 65536",
        "kvist serve --kv-cache-dtype q4",
        "kvist run a.gguf b.gguf",
        "kvist serve --idle-unload 0s",
        "kvist serve --kv-idle-release 10",
        "kvist serve --max-tokens 0",
        "kvist memory set lots",
        "kvist memory grow",
        "kvist run --raw --system x -p y",
        "kvist bench -r 0",
        "kvist pull",
        "kvist completions nosuchshell",
        "kvist fly",
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(
            error.exit_code(),
            i32::from(Exit::Usage.code()),
            "{line}: {error}"
        );
    }
}

#[test]
fn several_models_and_times_are_taken() {
    let args = serve("kvist serve a.gguf b.gguf --idle-unload 5m --kv-idle-release off");
    assert_eq!(args.models, ["a.gguf", "b.gguf"]);
    let minutes = std::time::Duration::from_secs(300);
    assert_eq!(args.idle_unload, After::Time(minutes));
    assert_eq!(args.kv_idle_release.time(), None);
    let defaults = serve("kvist serve");
    assert_eq!(defaults.idle_unload, After::Off);
    let release = kvist_engine::EngineOptions::default().kv_idle_release;
    assert_eq!(defaults.kv_idle_release.time(), release);
}

#[test]
fn what_decides_who_runs_and_what_is_kept_has_its_flags() {
    let args = serve(
        "kvist serve --admission guaranteed --fair-share user --kv-spill spill:8GiB --max-tokens 1k",
    );
    assert_eq!(
        args.admission.admission(),
        kvist_engine::Admission::Guaranteed
    );
    assert_eq!(args.fair_share.fairness(), kvist_engine::Fairness::Tenants);
    assert_eq!(args.fair_share.fair_share(), kvist_server::FairShare::User);
    let tier = args.tier().unwrap();
    assert_eq!((tier.bytes, tier.keeps), (Bytes::GIB * 8, false));
    assert_eq!(args.max_tokens, Some(Tokens(1024)));
    assert!(
        serve("kvist serve --prefix-cache-dir p:1GiB")
            .tier()
            .unwrap()
            .keeps
    );
    assert_eq!(serve("kvist serve").tier(), None);
    let defaults = kvist_engine::EngineOptions::default();
    assert_eq!(
        serve("kvist serve").admission.admission(),
        defaults.admission
    );
    assert!(parse("kvist serve --kv-spill a:1GiB --prefix-cache-dir b:1GiB").is_err());
}

#[test]
fn a_budget_is_set_by_size() {
    let Command::Memory(args) = parse("kvist memory set 3GiB --url http://x:1").unwrap() else {
        panic!()
    };
    let budget = Bytes::GIB * 3;
    assert_eq!(args.change, Some(MemoryChange::Set { budget }));
    assert_eq!(args.url, "http://x:1");
}

#[test]
fn a_typo_gets_the_nearest_command() {
    let error = parse("kvist inspec-t").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
    assert!(error.to_string().contains("inspect"), "{error}");
}

#[test]
fn every_command_has_short_help_with_an_example() {
    let mut all = command();
    all.build();
    for sub in all
        .get_subcommands_mut()
        .filter(|sub| sub.get_name() != "help")
    {
        let help = sub.render_help().to_string();
        assert!(
            help.contains("Examples:\n  kvist "),
            "{}: {help}",
            sub.get_name()
        );
        let lines = help.lines().count();
        assert!(lines <= 60, "{}: {lines} lines", sub.get_name());
    }
    let long = command().render_long_help().to_string();
    assert!(long.starts_with("Examples:"), "{long}");
    assert!(long.contains("78  the model does not fit"), "{long}");
}

#[test]
fn keys_are_not_in_debug_output() {
    let args = serve("kvist serve --api-key hunter2 --api-key other");
    assert_eq!(args.keys.api_key, ["hunter2", "other"]);
    assert!(!format!("{args:?}").contains("hunter2"));
}

#[test]
fn the_flag_names_the_tier_before_the_environment() {
    let environment = |name: &str| Environment {
        kvist_isa: Some(name.to_owned()),
        ..Environment::default()
    };
    let plain = serve("kvist serve").compute;
    let scalar = serve("kvist serve --isa scalar").compute;
    let best = Isa::detect();
    assert_eq!(plain.isa(&Environment::default()).unwrap(), None);
    assert_eq!(plain.isa(&environment(best.name())).unwrap(), Some(best));
    let isa = scalar.isa(&environment(best.name())).unwrap();
    assert_eq!(isa, Some(Isa::SCALAR));
    let error = plain.isa(&environment("mmx")).unwrap_err().to_string();
    assert!(
        error.contains("KVIST_ISA") && error.contains("scalar"),
        "{error}"
    );
    let error = parse("kvist bench --isa mmx").unwrap_err().to_string();
    assert!(error.contains("mmx") && error.contains("scalar"), "{error}");
}
