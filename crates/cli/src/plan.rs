//! `kvist plan`: where every byte would go, from the file's header alone.

use std::fmt::Write as _;
use std::path::Path;

use kvist_engine::plan::Limits;
use kvist_engine::{EngineOptions, PlannedModel, plan_what_if};
use serde_json::{Value, json};

use crate::args::PlanArgs;
use crate::environment::Environment;
use crate::error::{CliError, output_error};
use crate::exit::Exit;
use crate::model_ref;
use crate::session;
use crate::terminal::print;

pub(crate) fn run(args: &PlanArgs, environment: &Environment) -> Result<Exit, CliError> {
    let path = model_ref::resolve(&args.model, environment)?;
    let machine = session::machine()?;
    let options = EngineOptions {
        limits: Limits {
            structured_outputs: args.structured.is_on(),
            ..args.memory.limits(&args.batch, &machine)?
        },
        speculation: args.speculation.speculation(),
        draft: args.speculation.draft(args.model.network, environment)?,
        ..EngineOptions::default()
    };
    if options.draft.is_some() && args.what_if.device_memory.is_some() {
        return Err(
            CliError::new(Exit::Usage, "--device-memory plans one model")
                .because("a draft model computes on the CPU")
                .fix("leave --draft out"),
        );
    }
    let limits = options.limits_for(&path)?;
    let planned = plan_what_if(&path, &machine, &limits, args.what_if.what_if())?;
    let text = if args.json {
        format!("{:#}\n", as_json(&planned, &path, &limits))
    } else {
        as_text(&planned, &path)
    };
    print(&text).map_err(|error| output_error(&error))?;
    Ok(if planned.plan.fits() {
        Exit::Ok
    } else {
        Exit::DoesNotFit
    })
}

fn as_text(planned: &PlannedModel, path: &Path) -> String {
    let PlannedModel { shape, plan, .. } = planned;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "File:         {} ({})",
        path.display(),
        shape.file_bytes
    );
    let _ = writeln!(
        text,
        "Model:        {}, {}, {} layers, {} heads over {} for keys and values, made for {}",
        shape.name,
        shape.architecture,
        shape.layers,
        shape.heads,
        shape.kv_heads,
        shape.context_max
    );
    #[allow(clippy::cast_precision_loss)] // display only
    let gigabytes = shape.file_bytes.0 as f64 / 1e9;
    let _ = writeln!(
        text,
        "Weights:      {} ({gigabytes:.2} GB) in the file, {} as served",
        shape.file_bytes,
        shape.weight_bytes()
    );
    let _ = writeln!(text, "KV per token: {}", plan.kv.bytes_per_token);
    for note in notes(planned) {
        let _ = writeln!(text, "Note:         {note}");
    }
    let _ = write!(text, "\n{plan}");
    text
}

/// What a reader of the plan should know besides.
pub(crate) fn notes(planned: &PlannedModel) -> impl Iterator<Item = &str> {
    let cut = (!planned.is_complete)
        .then_some("the file ends before its last tensor: it can be planned, but not served");
    cut.into_iter()
        .chain(planned.notes.iter().map(String::as_str))
}

fn as_json(planned: &PlannedModel, path: &Path, limits: &Limits) -> Value {
    let shape = &planned.shape;
    json!({
        "file": {
            "path": path.to_string_lossy(),
            "tensor_bytes": shape.file_bytes.0,
            "is_complete": planned.is_complete,
        },
        "model": {
            "name": shape.name,
            "architecture": shape.architecture,
            "layers": shape.layers,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "dim": shape.dim,
            "ffn_dim": shape.ffn_dim,
            "vocab_len": shape.vocab_len,
            "context_max": shape.context_max.0,
            "weight_bytes": shape.weight_bytes().0,
        },
        "limits": {
            "max_num_seqs": limits.running_max,
            "max_num_batched_tokens": limits.step_tokens_max.0,
            "block_size": limits.block_size.0,
            "kv_cache_dtype": limits.kv_dtype.name(),
            "threads": limits.threads,
        },
        "notes": planned.notes,
        "fits": planned.plan.fits(),
        "plan": planned.plan,
    })
}
