//! Hugging Face's `{% generation %}` tag.
//!
//! It marks the assistant's words for training and prints its body like any other text; minijinja
//! does not know it and has no way to add tags. An `if` that is always true prints the same.

use std::borrow::Cow;

/// `source` with the tags rewritten: `generation` as `if true`, `endgeneration` as `endif`.
pub(super) fn rewrite(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open + "{%".len());
        rewritten.push_str(before);
        let body = tag.strip_prefix(['-', '+']).unwrap_or(tag).trim_start();
        let (word, replacement) = match () {
            () if body.starts_with("generation") => ("generation", "if true"),
            () if body.starts_with("endgeneration") => ("endgeneration", "endif"),
            () => ("", ""),
        };
        let after = &body[word.len()..];
        let close = after.trim_start();
        if word.is_empty()
            || !["%}", "-%}", "+%}"]
                .iter()
                .any(|end| close.starts_with(end))
        {
            rest = tag;
            continue;
        }
        rewritten.push_str(&tag[..tag.len() - body.len()]);
        rewritten.push_str(replacement);
        rest = after;
    }
    rewritten.push_str(rest);
    Cow::Owned(rewritten)
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn only_whole_tags_are_rewritten() {
        assert_eq!(
            rewrite("a{%- generation -%}b{{ c }}{%endgeneration%}\n{% if generation %}"),
            "a{%- if true -%}b{{ c }}{%endif%}\n{% if generation %}"
        );
        let others = "{% set generation = 1 %}{{ add_generation_prompt }}{% generations %} {%";
        assert_eq!(rewrite(others), others);
        assert_eq!(rewrite("{% generation"), "{% generation");
    }
}
