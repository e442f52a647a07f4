//! Conversations through a base's chat template. `std` only.

use core::ffi::c_char;

use super::failure::{Outcome, call, lowrank_code, lowrank_error};
use super::memory::{Region, check, slice};
use super::object::{region, share};
use super::text::{give, lowrank_text, text_of};
use crate::text::{Message, TemplateVariables};

/// A message of a conversation. The strings need no NUL at their ends.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_message {
    /// `system`, `user` or `assistant`.
    pub role: *const c_char,
    /// Its length.
    pub role_bytes: usize,
    /// What was said, UTF-8.
    pub content: *const c_char,
    /// Its length.
    pub content_bytes: usize,
}

/// A variable for the chat template. The strings need no NUL at their ends.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_template_variable {
    /// Its name, UTF-8: `enable_thinking`, `tools` …
    pub name: *const c_char,
    /// Its length.
    pub name_bytes: usize,
    /// Its value, UTF-8: JSON, or else text.
    pub value: *const c_char,
    /// Its length.
    pub value_bytes: usize,
}

/// Applies the base's chat template to `count` messages and writes the prompt to `buffer` (UTF-8,
/// no NUL) and its length to `*bytes`, as `lowrank_detokenize` does. `variables` are
/// `variable_count` variables for the template, such as `enable_thinking` = `false`; none is 0 of
/// them. If `add_generation_prompt` is not 0, the beginning of the assistant's turn is added.
/// Tokenize it with `LOWRANK_PROMPT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_render_chat(
    text: *const lowrank_text,
    messages: *const lowrank_message,
    count: usize,
    variables: *const lowrank_template_variable,
    variable_count: usize,
    add_generation_prompt: u32,
    buffer: *mut c_char,
    capacity: usize,
    bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let (out, length) = (Region::writes(buffer, capacity, 7), Region::writes(bytes, 1, 9));
    let regions = [
        region(text, false, 1),
        Region::reads(messages, count, 2),
        Region::reads(variables, variable_count, 4),
        out,
        length,
    ];
    call(error, 10, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let conversation = conversation(slice(messages, count), &[out, length])?;
            let mut given = TemplateVariables::new();
            for variable in slice(variables, variable_count) {
                let strings = [
                    Region::reads(variable.name, variable.name_bytes, 4),
                    Region::reads(variable.value, variable.value_bytes, 4),
                ];
                check(&[strings[0], strings[1], out, length])?;
                given.set(
                    text_of(variable.name, variable.name_bytes, 4)?,
                    text_of(variable.value, variable.value_bytes, 4)?,
                )?;
            }
            let tokenizer = &share(text, 1)?.tokenizer;
            let rendered =
                tokenizer.render_chat_with(&conversation, add_generation_prompt != 0, &given)?;
            give(rendered.as_bytes(), buffer.cast(), capacity, bytes)
        }
    })
}

/// The caller's messages, which must not lie in what is written to.
unsafe fn conversation(
    messages: &[lowrank_message],
    written: &[Region; 2],
) -> Outcome<Vec<Message>> {
    let mut conversation = Vec::with_capacity(messages.len());
    for message in messages {
        let strings = [
            Region::reads(message.role, message.role_bytes, 2),
            Region::reads(message.content, message.content_bytes, 2),
        ];
        check(&[strings[0], strings[1], written[0], written[1]])?;
        // SAFETY: checked in the line above; the caller vouches for the memory.
        let (role, content) = unsafe {
            (
                text_of(message.role, message.role_bytes, 2)?,
                text_of(message.content, message.content_bytes, 2)?,
            )
        };
        conversation.push(Message::new(role, content));
    }
    Ok(conversation)
}
