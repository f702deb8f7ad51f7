//! Reads `model` and `stream` from a form, and leaves the rest alone, as [`peek()`](super::peek()) does with JSON.

use super::{
    endpoint::{Endpoint, Streams},
    peek::{BadBody, check_case, checked_model},
};
use bytes::Bytes;
use reveille_bus::relay::{BadForm, FormPart, FormReader, boundary, form_parts};
use reveille_domain::ModelName;
use std::ops::Range;

/// How far into a form its model may be, in bytes: clients write it before or right behind a file's head.
pub(crate) const MODEL_WITHIN_BYTES: usize = 64 * 1024;

/// What a form asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeekedForm {
    /// `None` if it is missing or empty.
    pub model: Option<ModelName>,
    pub stream: bool,
}

/// Reads a form with this content type; `None` for another type.
pub(crate) fn peek_form(
    content_type: &str,
    body: &[u8],
    endpoint: &Endpoint,
) -> Option<Result<PeekedForm, BadBody>> {
    let boundary = boundary(content_type)?;
    Some(
        form_parts(body, boundary)
            .map_err(BadBody::from)
            .and_then(|parts| {
                let peeked = fields(body, &parts, endpoint)?;
                check_whole_form(&parts, endpoint)?;
                Ok(peeked)
            }),
    )
}

/// The model of a form of which `begun` has come, and whether it asks for a stream; `None` if more is needed. What follows the
/// beginning of a file isn't known yet: a form that asks for a stream there gets it without keep-alives.
pub(crate) fn peek_begun_form(
    begun: &[u8],
    form: &FormReader,
    endpoint: &Endpoint,
) -> Result<Option<(ModelName, bool)>, BadBody> {
    let (parts, last) = match form.parts() {
        [parts @ .., last] if form.is_in_part() => (parts, Some(last)),
        parts => (parts, None),
    };
    let has_begun = last.is_some_and(|last| last.is_file) || begun.len() >= MODEL_WITHIN_BYTES;
    let peeked = fields(begun, parts, endpoint)?;
    Ok(peeked
        .model
        .filter(|_| has_begun)
        .map(|model| (model, peeked.stream)))
}

/// Checks what only a whole form shows: that no field with a meaning here is given twice, and that the required one is there.
pub(crate) fn check_whole_form(parts: &[FormPart], endpoint: &Endpoint) -> Result<(), BadBody> {
    one(parts, "model")?;
    one(parts, "stream")?;
    // Several files have a field of the same name, in PHP's way.
    let has = |name: &str| {
        parts
            .iter()
            .any(|part| part.name.strip_suffix("[]").unwrap_or(&part.name) == name)
    };
    match endpoint.required.field().filter(|name| !has(name)) {
        Some(name) => Err(BadBody::new(
            "missing_field",
            name,
            format!("`{name}` is missing"),
        )),
        None => Ok(()),
    }
}

fn fields(body: &[u8], parts: &[FormPart], endpoint: &Endpoint) -> Result<PeekedForm, BadBody> {
    let model = one(parts, "model")?.filter(|place| !place.is_empty());
    if model.as_ref().is_some_and(|place| place.end > MODEL_WITHIN_BYTES) {
        let message = format!(
            "`model` must be within the first {} KiB of the form: send it before the files",
            MODEL_WITHIN_BYTES / 1024
        );
        return Err(BadBody::new("model_too_late", "model", message));
    }
    let model = model.map(|place| {
        let text = std::str::from_utf8(&body[place]);
        let text = text.map_err(|_| BadBody::new("invalid_model", "model", "`model` is not UTF-8"))?;
        checked_model("model", text)
    });
    let stream = match one(parts, "stream")? {
        Some(place) if endpoint.streams != Streams::Never => body[place].eq_ignore_ascii_case(b"true"),
        Some(_) | None => false,
    };
    Ok(PeekedForm {
        model: model.transpose()?,
        stream,
    })
}

/// Where the field of this name is, which is a text and is given once at most, in this case.
fn one(parts: &[FormPart], name: &'static str) -> Result<Option<Range<usize>>, BadBody> {
    parts.iter().try_for_each(|part| check_case(&part.name, name))?;
    let mut named = parts.iter().filter(|part| part.name == name);
    let first = named.next();
    match (first, named.next()) {
        (_, Some(_)) => Err(BadBody::new(
            "duplicate_field",
            name,
            format!("`{name}` is given twice"),
        )),
        (Some(part), None) if part.is_file => Err(BadBody::new(
            "invalid_type",
            name,
            format!("`{name}` must be a text, not a file"),
        )),
        (first, None) => Ok(first.map(|part| part.content.clone())),
    }
}

impl From<BadForm> for BadBody {
    fn from(bad: BadForm) -> Self {
        Self::new("invalid_form", None, bad.to_string())
    }
}

/// The form with `model` as its first field, in place of any empty one.
pub(crate) fn with_model(content_type: &str, body: &[u8], model: &ModelName) -> Bytes {
    let Some(boundary) = boundary(content_type) else {
        return Bytes::copy_from_slice(body);
    };
    let parts = form_parts(body, boundary).unwrap_or_default();
    if let Some(empty) = parts.iter().find(|part| part.name == "model") {
        let (before, after) = body.split_at(empty.content.start);
        return [before, model.as_str().as_bytes(), after].concat().into();
    }
    let field = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n");
    [field.as_bytes(), body.strip_prefix(b"\r\n").unwrap_or(body)]
        .concat()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::Verb;

    const KIND: &str = "multipart/form-data; boundary=b";

    fn part(head: &str, content: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
    }

    fn form(parts: &[String]) -> String {
        format!("{}--b--\r\n", parts.concat())
    }

    fn file(bytes: usize) -> String {
        part("name=\"file\"; filename=\"a.wav\"", &"x".repeat(bytes))
    }

    fn peeked(body: &str) -> Result<PeekedForm, BadBody> {
        let endpoint = Endpoint::find(Verb::Post, "/v1/audio/transcriptions").expect("a path");
        peek_form(KIND, body.as_bytes(), endpoint).expect("a form")
    }

    fn model(name: &str) -> String {
        part("name=\"model\"", name)
    }

    #[test]
    fn model_and_stream_are_read_before_and_behind_a_file() {
        let whisper = ModelName::parse("whisper-1").expect("legal");
        let stream = part("name=\"stream\"", "True");
        for (parts, streams) in [
            (vec![model("whisper-1"), file(1_000_000)], false),
            (vec![file(60_000), model("whisper-1"), stream], true),
        ] {
            let expected = PeekedForm {
                model: Some(whisper.clone()),
                stream: streams,
            };
            assert_eq!(peeked(&form(&parts)), Ok(expected));
        }
    }

    #[test]
    fn a_form_is_refused_by_what_is_wrong_with_it() {
        let text = part("name=\"model\"; filename=\"m\"", "m");
        for (parts, code) in [
            (vec![file(MODEL_WITHIN_BYTES), model("m")], "model_too_late"),
            (vec![model("m"), file(1), model("m")], "duplicate_field"),
            (
                vec![model("m"), file(MODEL_WITHIN_BYTES), model("m")],
                "duplicate_field",
            ),
            (
                vec![model("m"), file(1), part("name=\"Model\"", "m")],
                "unsupported_field",
            ),
            (
                vec![model("m"), part("name=STREAM", "true"), file(1)],
                "unsupported_field",
            ),
            (vec![text, file(1)], "invalid_type"),
            (vec![model("a\nb"), file(1)], "invalid_model"),
            (vec![model("m")], "missing_field"),
        ] {
            let refused = peeked(&form(&parts)).expect_err(code);
            assert_eq!(refused.code, code);
        }
        assert_eq!(peeked("no form").expect_err("nonsense").code, "invalid_form");
    }

    #[test]
    fn a_form_without_a_model_gets_one() {
        let name = ModelName::parse("m").expect("legal");
        for parts in [vec![file(3)], vec![file(3), model("")]] {
            let body = form(&parts);
            assert_eq!(peeked(&body).map(|form| form.model), Ok(None));
            let filled = with_model(KIND, body.as_bytes(), &name);
            let filled = std::str::from_utf8(&filled).expect("text");
            assert_eq!(
                peeked(filled).map(|form| form.model),
                Ok(Some(name.clone())),
                "{filled}"
            );
        }
    }
}
