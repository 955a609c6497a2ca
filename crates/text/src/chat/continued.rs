//! Conversations that end within their last message, for the model to go on with it.

use crate::chat::{ChatInput, ChatTemplate};
use crate::error::TextError;

/// Marks the end of the last message's text. Templates put things after it, and some of them look like
/// the text itself; this is from Unicode's private use area, so that they look at it as at a letter.
const MARK: &str = "\u{f8ff}end of the last message\u{f8ff}";

/// The text up to the end of the last message's content.
///
/// # Errors
/// Those of [`ChatTemplate::render`]; and when there is no last message of the assistant's with a text,
/// or the template leaves it out.
pub(super) fn render(template: &ChatTemplate, input: &ChatInput) -> Result<String, TextError> {
    let mut input = ChatInput {
        continue_final_message: false,
        add_generation_prompt: false,
        ..input.clone()
    };
    let last = input.messages.last_mut();
    let content = last
        .filter(|message| message.role == "assistant")
        .and_then(|message| message.content.as_mut())
        .ok_or(TextError::NothingToContinue)?;
    content.push_str(MARK);
    let mut text = template.render(&input)?;
    let end = text.rfind(MARK).ok_or(TextError::NothingToContinue)?;
    text.truncate(end);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::{ChatMessage, TemplateTokens};
    use super::*;

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}\
        <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn conversation(messages: &[(&str, &str)]) -> ChatInput {
        let message = |(role, content): &(&str, &str)| ChatMessage {
            role: (*role).to_owned(),
            content: Some((*content).to_owned()),
            ..ChatMessage::default()
        };
        ChatInput {
            messages: messages.iter().map(message).collect(),
            add_generation_prompt: true,
            continue_final_message: true,
            ..ChatInput::default()
        }
    }

    #[test]
    fn the_text_ends_within_the_last_message() {
        let template = ChatTemplate::compile(CHATML, TemplateTokens::default()).unwrap();
        // "end" is in what the template writes after it, too.
        for last in ["end", "", "Once upon a time ", "<|im_end|>"] {
            let input = conversation(&[("user", "Go on"), ("assistant", last)]);
            assert_eq!(
                template.render(&input).unwrap(),
                format!("<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n{last}")
            );
        }
    }

    #[test]
    fn there_has_to_be_something_to_continue() {
        let template = ChatTemplate::compile(CHATML, TemplateTokens::default()).unwrap();
        for messages in [&[][..], &[("assistant", "a"), ("user", "b")]] {
            let refused = template.render(&conversation(messages));
            assert!(matches!(refused, Err(TextError::NothingToContinue)));
        }
        let mute = ChatTemplate::compile("nothing", TemplateTokens::default()).unwrap();
        let refused = mute.render(&conversation(&[("assistant", "a")]));
        assert!(matches!(refused, Err(TextError::NothingToContinue)));
    }
}
