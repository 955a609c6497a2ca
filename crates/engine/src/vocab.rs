//! A GGUF file's vocabulary as the text room takes it.

use kvist_base::TokenId;
use kvist_text::{
    ChatTemplate, SpecialIds, TemplateTokens, TextError, TokenType, VocabModel, VocabSpec,
};
use kvist_weights::Metadata;

use crate::load::LoadError;

/// Copies `tokenizer.ggml.*`.
pub(crate) fn vocab_spec(metadata: &Metadata) -> Result<VocabSpec, LoadError> {
    let model: VocabModel = metadata.require_str("tokenizer.ggml.model")?.parse()?;
    let pre = metadata.opt_str("tokenizer.ggml.pre")?.map(str::to_owned);
    let tokens = metadata
        .require_strings("tokenizer.ggml.tokens")?
        .iter()
        .map(str::to_owned);
    let token_types = match metadata.i32s("tokenizer.ggml.token_type")? {
        Some(types) => types
            .iter()
            .map(|number| TokenType::try_from(*number))
            .collect::<Result<_, TextError>>()?,
        None => Vec::new(),
    };
    let merges = match metadata.strings("tokenizer.ggml.merges")? {
        Some(merges) => merges.iter().map(str::to_owned).collect(),
        None => Vec::new(),
    };
    let scores = metadata
        .f32s("tokenizer.ggml.scores")?
        .map(<[f32]>::to_vec)
        .unwrap_or_default();
    let default_add_bos = VocabSpec::default_add_bos(model, pre.as_deref());
    let flag = |key, default| Ok::<_, LoadError>(metadata.opt_bool(key)?.unwrap_or(default));
    Ok(VocabSpec {
        add_bos: flag("tokenizer.ggml.add_bos_token", default_add_bos)?,
        add_eos: flag("tokenizer.ggml.add_eos_token", false)?,
        add_space_prefix: flag(
            "tokenizer.ggml.add_space_prefix",
            model == VocabModel::SentencePiece,
        )?,
        special: special_ids(metadata)?,
        tokens: tokens.collect(),
        model,
        pre,
        token_types,
        scores,
        merges,
    })
}

fn special_ids(metadata: &Metadata) -> Result<SpecialIds, LoadError> {
    let id = |role: &str| {
        let key = format!("tokenizer.ggml.{role}_token_id");
        Ok::<_, LoadError>(metadata.opt_u32(&key)?.map(TokenId))
    };
    Ok(SpecialIds {
        bos: id("bos")?,
        eos: id("eos")?,
        eot: id("eot")?,
        eom: id("eom")?,
        unk: id("unknown")?,
        pad: id("padding")?,
    })
}

/// The file's chat template, compiled; `None` when it has none.
pub(crate) fn chat_template(
    metadata: &Metadata,
    vocab: &VocabSpec,
) -> Result<Option<ChatTemplate>, LoadError> {
    let Some(source) = metadata.opt_str("tokenizer.chat_template")? else {
        return Ok(None);
    };
    let text = |id: Option<TokenId>| {
        id.and_then(|id| vocab.tokens.get(id.idx()))
            .cloned()
            .unwrap_or_default()
    };
    let tokens = TemplateTokens {
        bos: text(vocab.special.bos),
        eos: text(vocab.special.eos),
    };
    let template = ChatTemplate::compile(source, tokens)?;
    // Some models have a template of its own for conversations with tools, as in Hugging Face's files.
    Ok(Some(
        match metadata.opt_str("tokenizer.chat_template.tool_use")? {
            Some(tool_source) => template.with_tool_template(tool_source, source)?,
            None => template,
        },
    ))
}
