//! What published templates say about their models.

#![allow(clippy::unwrap_used)]

use kvist_text::{
    ChatInput, ChatMessage, ChatTemplate, ReasoningFormat, TemplateTokens, ToolFormat,
};
use serde_json::json;

const QWEN: &str = include_str!("data/qwen2.5.jinja");
const DEEPSEEK: &str = include_str!("data/deepseek-r1.jinja");
const SMOLLM: &str = include_str!("data/smollm2.jinja");

fn compile(source: &str) -> ChatTemplate {
    ChatTemplate::compile(source, TemplateTokens::default()).unwrap()
}

/// A question, a call with its arguments as an object, and the answer to it.
fn history() -> ChatInput {
    let message = |role: &str, content: Option<&str>| ChatMessage {
        role: role.to_owned(),
        content: content.map(str::to_owned),
        ..ChatMessage::default()
    };
    let mut call = message("assistant", None);
    let calls = json!([{
        "id": "c", "type": "function",
        "function": {"name": "get_time", "arguments": {"zone": "Bern", "at": [1, 2]}},
    }]);
    call.extra.insert("tool_calls".to_owned(), calls);
    ChatInput {
        messages: vec![
            message("user", Some("hi")),
            call,
            message("tool", Some("noon")),
        ],
        ..ChatInput::default()
    }
}

#[test]
fn formats_are_those_of_the_template() {
    for (source, tools, reasoning) in [
        (QWEN, Some(ToolFormat::Hermes), None),
        // Writes calls of the history, but does not tell the model about tools.
        (DEEPSEEK, None, Some(ReasoningFormat::Think)),
        (SMOLLM, None, None),
        ("{{ tools }}", Some(ToolFormat::Json), None),
        ("{{ tools }}[TOOL_CALLS]", Some(ToolFormat::Mistral), None),
        ("{{ tools }}<|python_tag|>", Some(ToolFormat::Llama3), None),
        (
            "{{ tools }}<tool_call><arg_key></think>",
            Some(ToolFormat::Glm),
            Some(ReasoningFormat::Think),
        ),
        (
            "{{ tools }}<tool_call><function=",
            Some(ToolFormat::QwenCoder),
            None,
        ),
        (
            "{{ tools }}<|tool_calls_section_begin|>",
            Some(ToolFormat::Kimi),
            None,
        ),
        (
            "{{ tools }}<｜tool▁call▁begin｜>",
            Some(ToolFormat::DeepSeek),
            None,
        ),
        ("[THINK][/THINK]", None, Some(ReasoningFormat::Mistral)),
    ] {
        let template = compile(source);
        let traits = template.traits();
        assert_eq!(
            (traits.tools, traits.reasoning),
            (tools, reasoning),
            "{source}"
        );
    }
}

#[test]
fn arguments_are_written_as_the_template_wants_them() {
    for (source, is_text) in [
        (QWEN, false),
        (DEEPSEEK, true),
        (SMOLLM, false),
        (
            "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments }}{% endfor %}{% endfor %}",
            true,
        ),
    ] {
        assert_eq!(compile(source).traits().text_arguments, is_text, "{source}");
    }
    let arguments = "{\"zone\": \"Bern\", \"at\": [1, 2]}";
    for source in [QWEN, DEEPSEEK] {
        let text = compile(source).render(&history()).unwrap();
        assert!(text.contains(arguments) && text.contains("noon"), "{text}");
    }
}

#[test]
fn names_that_a_template_reads_are_known() {
    let template = compile("{% if enable_thinking %}{% set local = 1 %}{{ local }}{% endif %}");
    let variables: Vec<&str> = template
        .traits()
        .variables
        .iter()
        .map(String::as_str)
        .collect();
    assert_eq!(variables, ["enable_thinking"]);
}

#[test]
fn a_template_for_tools_is_used_when_there_are_some() {
    let template = compile("plain")
        .with_tool_template("{{ tools }}<tool_call>", "plain")
        .unwrap();
    assert_eq!(template.traits().tools, Some(ToolFormat::Hermes));
    let mut input = ChatInput::default();
    assert_eq!(template.render(&input).unwrap(), "plain");
    input.tools = Some(json!([]));
    assert_eq!(template.render(&input).unwrap(), "[]<tool_call>");
}
