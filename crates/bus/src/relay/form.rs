//! Finds the fields of a form (`multipart/form-data`, RFC 7578). Both ends of the relay need the name of the model in it, and neither
//! reads anything else.
//!
//! It refuses what two parsers could read differently, because the backend reads the same bytes again.

use memchr::memmem;
use std::ops::Range;
use thiserror::Error;

/// The most parts of a form.
pub const MAX_FORM_PARTS: usize = 1_000;
/// The longest head of one, in bytes.
pub const MAX_PART_HEAD_BYTES: usize = 8 * 1024;
/// The longest boundary (RFC 2046, section 5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;
const FORM: &str = "multipart/form-data";

/// A part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormPart {
    /// The field's name.
    pub name: String,
    /// Whether it is a file.
    pub is_file: bool,
    /// Where its content is.
    pub content: Range<usize>,
}

const NO_BEGINNING: BadForm = BadForm("the form doesn't begin with its boundary");
const NO_HEAD: BadForm = BadForm("a part of the form has no head of at most 8 KiB");

/// Why a form can't be read, for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BadForm(&'static str);

/// The boundary in the content type of a form; `None` for another type, without a legal one, or with any other parameter than
/// `charset=utf-8`: backends read the names of fields by another charset.
#[must_use]
pub fn boundary(content_type: &str) -> Option<&str> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case(FORM) {
        return None;
    }
    let mut found = None;
    for parameter in parameters.split(';') {
        let (name, value) = parameter.trim().split_once('=')?;
        match name.to_ascii_lowercase().as_str() {
            "boundary" if found.is_none() => found = Some(value),
            "charset" if is_utf8(value) => {}
            _ => return None,
        }
    }
    let found = unquoted(found?);
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    let legal = (1..=MAX_BOUNDARY_BYTES).contains(&found.len()) && found.bytes().all(is_legal);
    legal.then_some(found)
}

fn unquoted(value: &str) -> &str {
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    quoted.unwrap_or(value)
}

fn is_utf8(charset: &str) -> bool {
    let charset = unquoted(charset);
    ["utf-8", "us-ascii"]
        .iter()
        .any(|known| charset.eq_ignore_ascii_case(known))
}

/// The parts of a form that is there whole, in order.
///
/// # Errors
/// When it isn't one, or has too many parts.
pub fn form_parts(body: &[u8], boundary: &str) -> Result<Vec<FormPart>, BadForm> {
    let mut form = FormReader::new(boundary);
    form.read(body)?;
    form.end()?;
    Ok(form.parts)
}

/// Reads a form while it comes in. It keeps no more of it than the head of a part.
#[derive(Debug)]
pub struct FormReader {
    delimiter: Vec<u8>,
    place: FormState,
    /// The last bytes: those from `at` on can't be judged yet.
    rest: Vec<u8>,
    at: usize,
    /// How many bytes came before `at`.
    passed: usize,
    parts: Vec<FormPart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FormState {
    /// Before the first boundary.
    Start,
    /// Behind a boundary.
    Boundary,
    /// In the head of a part.
    Head,
    /// Where the content of the last part begins.
    Begun,
    /// In that content.
    Content,
    /// Behind the end of the form.
    End,
}

impl FormReader {
    /// A reader for a form with this boundary.
    #[must_use]
    pub fn new(boundary: &str) -> Self {
        Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            place: FormState::Start,
            rest: Vec::new(),
            at: 0,
            passed: 0,
            parts: Vec::new(),
        }
    }

    /// The parts so far. Of the last one, only the beginning may have come: see [`is_in_part`](Self::is_in_part).
    #[must_use]
    pub fn parts(&self) -> &[FormPart] {
        &self.parts
    }

    /// The parts that have come as a whole.
    #[must_use]
    pub fn whole_parts(&self) -> &[FormPart] {
        match self.parts.as_slice() {
            [whole @ .., _] if self.is_in_part() => whole,
            all => all,
        }
    }

    /// Whether the end of the last part is still to come; the end of its content is where it begins until then.
    #[must_use]
    pub const fn is_in_part(&self) -> bool {
        matches!(self.place, FormState::Begun | FormState::Content)
    }

    /// The next bytes of the form.
    ///
    /// # Errors
    /// When it isn't one, or has too many parts.
    pub fn read(&mut self, more: &[u8]) -> Result<(), BadForm> {
        self.rest.extend_from_slice(more);
        while let Some((place, bytes)) = self.step()? {
            self.place = place;
            self.passed += bytes;
            self.at += bytes;
        }
        self.rest.drain(..std::mem::take(&mut self.at));
        Ok(())
    }

    /// Nothing more will come.
    ///
    /// # Errors
    /// When the form isn't whole.
    pub const fn end(&self) -> Result<(), BadForm> {
        match self.place {
            FormState::End => Ok(()),
            FormState::Start => Err(NO_BEGINNING),
            FormState::Boundary => Err(BadForm("the form has no end")),
            FormState::Head => Err(NO_HEAD),
            FormState::Begun | FormState::Content => Err(BadForm("the form has no end")),
        }
    }

    /// The next place, and how many bytes are before it; `None` if more have to come first.
    fn step(&mut self) -> Result<Option<(FormState, usize)>, BadForm> {
        let (rest, delimiter) = (&self.rest[self.at..], &self.delimiter);
        let is_open = |wanted: &[u8]| rest.len() < wanted.len() && wanted.starts_with(rest);
        // The first boundary needs no line before it.
        let first = &delimiter[2..];
        match self.place {
            FormState::Start if rest.starts_with(first) => Ok(Some((FormState::Boundary, first.len()))),
            FormState::Start if rest.starts_with(delimiter) => {
                Ok(Some((FormState::Boundary, delimiter.len())))
            }
            FormState::Start if is_open(first) || is_open(delimiter) => Ok(None),
            FormState::Start => Err(NO_BEGINNING),
            FormState::Boundary if rest.starts_with(b"--") => Ok(Some((FormState::End, 2))),
            FormState::Boundary if rest.starts_with(b"\r\n") => {
                if self.parts.len() == MAX_FORM_PARTS {
                    return Err(BadForm("the form has more than 1,000 parts"));
                }
                Ok(Some((FormState::Head, 2)))
            }
            FormState::Boundary if is_open(b"--") || is_open(b"\r\n") => Ok(None),
            FormState::Boundary => Err(BadForm("a boundary of the form isn't on a line of its own")),
            FormState::Head => {
                let Some(end) = memmem::find(&rest[..rest.len().min(MAX_PART_HEAD_BYTES)], b"\r\n\r\n")
                else {
                    return if rest.len() < MAX_PART_HEAD_BYTES {
                        Ok(None)
                    } else {
                        Err(NO_HEAD)
                    };
                };
                let (name, is_file) = described(&rest[..end])?;
                let begins = self.passed + end + 4;
                self.parts.push(FormPart {
                    name,
                    is_file,
                    content: begins..begins,
                });
                Ok(Some((FormState::Begun, end + 4)))
            }
            FormState::Begun if is_open(first) => Ok(None),
            // Its boundary would follow the head's blank line, which some would count as the content's.
            FormState::Begun if rest.starts_with(first) => Err(BadForm("a part of the form has no content")),
            FormState::Begun => Ok(Some((FormState::Content, 0))),
            FormState::Content => match memmem::find(rest, first) {
                Some(at) if rest[..at].ends_with(b"\r\n") => {
                    let end = at - 2;
                    if let Some(part) = self.parts.last_mut() {
                        part.content.end = self.passed + end;
                    }
                    Ok(Some((FormState::Boundary, end + delimiter.len())))
                }
                // Some take a line that ends otherwise for one.
                Some(_) => Err(BadForm("a boundary of the form isn't on a line of its own")),
                // A boundary may have begun.
                None => {
                    let done = (rest.len() + 1).saturating_sub(delimiter.len());
                    Ok((done > 0).then_some((FormState::Content, done)))
                }
            },
            FormState::End if rest.trim_ascii().is_empty() => {
                let all = rest.len();
                Ok((all > 0).then_some((FormState::End, all)))
            }
            FormState::End => Err(BadForm("something follows the end of the form")),
        }
    }
}

const UNCLEAR: BadForm = BadForm("the content-disposition of a part of the form can't be read");

/// The name of a part with this head, and whether it is a file.
fn described(head: &[u8]) -> Result<(String, bool), BadForm> {
    let head = std::str::from_utf8(head).map_err(|_| UNCLEAR)?;
    let mut disposition = None;
    for line in head.split("\r\n") {
        let (field, value) = line.split_once(':').ok_or(UNCLEAR)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !field.bytes().all(is_name) || value.contains(['\r', '\n', '\0']) {
            return Err(UNCLEAR);
        }
        let value = value.trim();
        match field.to_ascii_lowercase().as_str() {
            "content-disposition" if disposition.is_some() => return Err(UNCLEAR),
            "content-disposition" => disposition = Some(value),
            "content-type" => {
                let lower = value.to_ascii_lowercase();
                if lower.split_once("charset").is_some_and(|(_, charset)| {
                    let charset = charset.split(';').next().unwrap_or_default();
                    !charset
                        .strip_prefix('=')
                        .is_some_and(|charset| is_utf8(charset.trim()))
                }) {
                    return Err(BadForm("a part of the form isn't in UTF-8"));
                }
            }
            "content-transfer-encoding" => {
                let plain = ["7bit", "8bit", "binary"];
                if !plain.iter().any(|plain| value.eq_ignore_ascii_case(plain)) {
                    return Err(BadForm("a part of the form has a content-transfer-encoding"));
                }
            }
            _ => {}
        }
    }
    let mut rest = disposition
        .and_then(|value| value.strip_prefix("form-data"))
        .ok_or(UNCLEAR)?;
    let (mut name, mut file_names) = (None, Vec::new());
    while let Some(parameter) = rest.strip_prefix(';') {
        let (key, value);
        (key, value, rest) = next_parameter(parameter.trim_start_matches([' ', '\t']))?;
        match key.to_ascii_lowercase().as_str() {
            "name" if name.is_none() && is_plain_name(value) => name = Some(value.to_owned()),
            key @ ("filename" | "filename*") if !file_names.iter().any(|other| other == key) => {
                file_names.push(key.to_owned());
            }
            _ => return Err(UNCLEAR),
        }
        rest = rest.trim_start_matches([' ', '\t']);
    }
    if !rest.is_empty() {
        return Err(UNCLEAR);
    }
    Ok((name.ok_or(UNCLEAR)?, !file_names.is_empty()))
}

/// The first parameter of a text, as its key and value, and what follows it. Nothing in it is escaped or decoded, and it has no
/// semicolon, at which some parsers split even a quoted value.
fn next_parameter(text: &str) -> Result<(&str, &str, &str), BadForm> {
    let (key, after) = text.split_once('=').ok_or(UNCLEAR)?;
    let (value, rest) = match after.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or(UNCLEAR)?,
        None => after.split_at(after.find([';', ' ', '\t']).unwrap_or(after.len())),
    };
    if value.contains(['\\', ';', '"']) {
        return Err(BadForm(
            "a name in the form has a backslash, a quote or a semicolon, which backends read differently",
        ));
    }
    Ok((key, value, rest))
}

/// Whether every backend takes the name of a field as it is.
fn is_plain_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte);
    !name.is_empty() && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a form whose lines end with `\n` here.
    fn read(form: &str) -> Result<Vec<(String, bool, String)>, BadForm> {
        let body = form.replace('\n', "\r\n");
        let parts = form_parts(body.as_bytes(), "x-1");
        for size in [1, 7, 100] {
            assert_eq!(in_pieces(&body, size), parts, "{form:?}");
        }
        let parts = parts?;
        Ok(parts
            .into_iter()
            .map(|part| (part.name, part.is_file, body[part.content].to_owned()))
            .collect())
    }

    fn in_pieces(body: &str, size: usize) -> Result<Vec<FormPart>, BadForm> {
        let mut form = FormReader::new("x-1");
        for piece in body.as_bytes().chunks(size) {
            form.read(piece)?;
            assert!(form.rest.len() <= MAX_PART_HEAD_BYTES + size);
        }
        form.end()?;
        Ok(form.parts)
    }

    fn part(name: &str, is_file: bool, content: &str) -> (String, bool, String) {
        (name.to_owned(), is_file, content.to_owned())
    }

    #[test]
    fn a_boundary_is_read_from_the_content_type_of_a_form() {
        for (kind, found) in [
            ("multipart/form-data; boundary=x-1", Some("x-1")),
            ("Multipart/Form-Data;charset=utf-8; BOUNDARY=\"x 1\"", None),
            ("multipart/form-data; boundary=\"x:1\"", Some("x:1")),
            ("multipart/form-data; boundary=a; boundary=b", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data", None),
            ("multipart/mixed; boundary=x", None),
            ("application/json; boundary=x", None),
            ("multipart/form-data; charset=UTF-8; boundary=x", Some("x")),
            ("multipart/form-data; boundary=x; charset=utf-7", None),
            ("multipart/form-data; boundary=x; boundary*0=y", None),
            ("multipart/form-data; boundary=x;", None),
            ("multipart/form-data; boundary =x", None),
        ] {
            assert_eq!(boundary(kind), found, "{kind}");
        }
    }

    #[test]
    fn the_parts_of_a_form_are_found_whatever_they_contain() {
        let form = "--x-1\nContent-Disposition: form-data; name=\"file\"; filename=\"a name=model.wav\"\n\
                    Content-Type: audio/wav\n\n\n--x-\nContent-Disposition: form-data; name=\"model\"\n\nno\n\
                    --x-1\ncontent-disposition:form-data; name=model\n\nwhisper\n\
                    --x-1\nContent-Disposition: form-data; name=\"empty\"\n\n\n--x-1--\n";
        let file = "\r\n--x-\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nno";
        assert_eq!(
            read(form),
            Ok(vec![
                part("file", true, file),
                part("model", false, "whisper"),
                part("empty", false, "")
            ])
        );
        for filename in ["filename=b", "filename*=utf-8''b"] {
            let form = format!("--x-1\nContent-Disposition: form-data; name=a; {filename}\n\nc\n--x-1--");
            assert_eq!(read(&form), Ok(vec![part("a", true, "c")]), "{filename}");
        }
        assert_eq!(read("--x-1--"), Ok(vec![]));
        assert_eq!(
            read("\n--x-1\nContent-Disposition: form-data; name=a\n\nb\n--x-1--"),
            Ok(vec![part("a", false, "b")])
        );
    }

    #[test]
    fn a_part_is_known_once_its_head_has_come() {
        let mut form = FormReader::new("x-1");
        let head = "--x-1\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n";
        for (piece, known, is_in_part) in [
            (&head[..head.len() - 1], 0, false),
            ("\n", 1, true),
            ("whisper\r", 1, true),
            ("\n--x-1", 1, false),
        ] {
            form.read(piece.as_bytes()).expect("a form");
            assert_eq!(
                (form.parts().len(), form.is_in_part()),
                (known, is_in_part),
                "{piece:?}"
            );
        }
        assert_eq!(form.parts()[0].content, head.len()..head.len() + 7);
        assert!(form.end().is_err());
    }

    #[test]
    fn what_parsers_could_read_differently_is_refused() {
        let with_head = |head: &str| read(&format!("--x-1\n{head}\n\nm\n--x-1--\n"));
        for head in [
            "Content-Disposition: form-data",
            "Content-Disposition: attachment; name=\"model\"",
            "Content-Disposition: form-data; name=\"mod\\el\"",
            "Content-Disposition: form-data; name*=utf-8''model",
            "Content-Disposition: form-data; name=\"x\"; name*0=\"model\"",
            "Content-Disposition: form-data; name=\"x\"; name*0*=model",
            "Content-Disposition: form-data; name=\"x\"; ;name=\"model\"",
            "Content-Disposition: form-data; name=\"x\";",
            "Content-Disposition: form-data; name=\"x\"; other=y",
            "Content-Disposition: form-data; name =\"model\"",
            "Content-Disposition: form-data; name=\"x\"; filename=\"a; name=model\"",
            "Content-Disposition: form-data; name=\"x\"; filename=\"a\\\"; name=model; b=\"",
            "Content-Disposition: form-data; z=\"a\\\\\"; q=\"; name=model; r=\"; name=\"y\"",
            "Content-Disposition: form-data; name=\"x\"; filename=a; filename=b",
            "Content-Disposition: form-data; name=\"x\"; filename*0=a",
            "Content-Disposition: form-data; name=\"+AG0AbwBkAGUAbA-\"",
            "Content-Disposition: form-data; name=\"mod%65l\"",
            "Content-Disposition: form-data; name=\"=?utf-8?q?model?=\"",
            "Content-Disposition : form-data; name=\"model\"",
            "Content-Disposition: form-data; name=\"a\"\nContent-Type: text/plain; charset=utf-16",
            "Content-Disposition: form-data; name=\"a\"; name*0=\"model\"",
            "Content-Disposition: form-data; NAME*0*=utf-8''mod; name*1=el; name=\"a\"",
            "Content-Disposition: form-data; name=\"a\"; name=\"model\"",
            "Content-Disposition: form-data; name=\"a\" model",
            "Content-Disposition: form-data; name=\"a",
            "Content-Disposition: form-data; name=\"a\"\nContent-Disposition: form-data; name=\"model\"",
            "Content-Disposition: form-data;\n name=\"model\"",
            "Content-Disposition: form-data; name=\"a\"\nContent-Transfer-Encoding: base64",
            "Content-Type: text/plain",
        ] {
            assert!(with_head(head).is_err(), "{head}");
        }
        let whole = "--x-1\nContent-Disposition: form-data; name=\"model\"\n\nm\n--x-1--\n";
        assert!(read(whole).is_ok());
        for form in [
            "",
            "model=m",
            "x--x-1--",
            &whole[..whole.len() - 8],
            &whole.replace("--x-1--", "--x-1-"),
            &format!("{whole}--x-1"),
            &whole.replacen("--x-1\n", "--x-1 \n", 1),
            &whole.replace("\nm\n", "\n"),
            &whole.replace("\nm\n", "\nm\n--x-12\n"),
        ] {
            assert!(read(form).is_err(), "{form:?}");
        }
        for end in ["\n", "\r", "", "\n\r"] {
            let head = "--x-1\r\nContent-Disposition: form-data; name=a\r\n\r\n";
            let body = format!("{head}m{end}{head}n\r\n--x-1--\r\n");
            assert!(form_parts(body.as_bytes(), "x-1").is_err(), "{body:?}");
            assert!(in_pieces(&body, 1).is_err(), "{body:?}");
        }
        let many = "--x-1\nContent-Disposition: form-data; name=a\n\n\n".repeat(MAX_FORM_PARTS + 1);
        assert!(read(&format!("{many}--x-1--")).is_err());
        let long = format!(
            "Content-Disposition: form-data; name=a\nx: {}",
            "y".repeat(MAX_PART_HEAD_BYTES)
        );
        assert!(with_head(&long).is_err());
    }
}
