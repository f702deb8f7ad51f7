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

/// The boundary in the content type of a form; `None` for another type, or without a legal one.
#[must_use]
pub fn boundary(content_type: &str) -> Option<&str> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case(FORM) {
        return None;
    }
    let mut boundaries = parameters.split(';').filter_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then(|| value.trim())
    });
    let (found, other) = (boundaries.next()?, boundaries.next());
    let quoted = found.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let found = quoted.unwrap_or(found);
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    let legal = (1..=MAX_BOUNDARY_BYTES).contains(&found.len()) && found.bytes().all(is_legal);
    (legal && other.is_none()).then_some(found)
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
    place: Place,
    /// The last bytes: those from `at` on can't be judged yet.
    rest: Vec<u8>,
    at: usize,
    /// How many bytes came before `at`.
    passed: usize,
    parts: Vec<FormPart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
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
            place: Place::Start,
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
        matches!(self.place, Place::Begun | Place::Content)
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
            Place::End => Ok(()),
            Place::Start => Err(NO_BEGINNING),
            Place::Boundary => Err(BadForm("the form has no end")),
            Place::Head => Err(NO_HEAD),
            Place::Begun | Place::Content => Err(BadForm("the form has no end")),
        }
    }

    /// The next place, and how many bytes are before it; `None` if more have to come first.
    fn step(&mut self) -> Result<Option<(Place, usize)>, BadForm> {
        let (rest, delimiter) = (&self.rest[self.at..], &self.delimiter);
        let is_open = |wanted: &[u8]| rest.len() < wanted.len() && wanted.starts_with(rest);
        // The first boundary needs no line before it.
        let first = &delimiter[2..];
        match self.place {
            Place::Start if rest.starts_with(first) => Ok(Some((Place::Boundary, first.len()))),
            Place::Start if rest.starts_with(delimiter) => Ok(Some((Place::Boundary, delimiter.len()))),
            Place::Start if is_open(first) || is_open(delimiter) => Ok(None),
            Place::Start => Err(NO_BEGINNING),
            Place::Boundary if rest.starts_with(b"--") => Ok(Some((Place::End, 2))),
            Place::Boundary if rest.starts_with(b"\r\n") => {
                if self.parts.len() == MAX_FORM_PARTS {
                    return Err(BadForm("the form has more than 1,000 parts"));
                }
                Ok(Some((Place::Head, 2)))
            }
            Place::Boundary if is_open(b"--") || is_open(b"\r\n") => Ok(None),
            Place::Boundary => Err(BadForm("a boundary of the form isn't on a line of its own")),
            Place::Head => {
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
                Ok(Some((Place::Begun, end + 4)))
            }
            Place::Begun if is_open(first) => Ok(None),
            // Its boundary would follow the head's blank line, which some would count as the content's.
            Place::Begun if rest.starts_with(first) => Err(BadForm("a part of the form has no content")),
            Place::Begun => Ok(Some((Place::Content, 0))),
            Place::Content => Ok(match memmem::find(rest, delimiter) {
                Some(at) => {
                    if let Some(part) = self.parts.last_mut() {
                        part.content.end = self.passed + at;
                    }
                    Some((Place::Boundary, at + delimiter.len()))
                }
                // A boundary may have begun.
                None => {
                    let done = (rest.len() + 1).saturating_sub(delimiter.len());
                    (done > 0).then_some((Place::Content, done))
                }
            }),
            Place::End if rest.trim_ascii().is_empty() => {
                let all = rest.len();
                Ok((all > 0).then_some((Place::End, all)))
            }
            Place::End => Err(BadForm("something follows the end of the form")),
        }
    }
}

/// The name of a part with this head, and whether it is a file.
fn described(head: &[u8]) -> Result<(String, bool), BadForm> {
    const UNCLEAR: BadForm = BadForm("the content-disposition of a part of the form can't be read");
    let head = std::str::from_utf8(head).map_err(|_| UNCLEAR)?;
    let mut described = None;
    for line in head.split("\r\n") {
        let (field, value) = line.split_once(':').ok_or(UNCLEAR)?;
        if field.starts_with([' ', '\t']) || value.contains(['\r', '\n']) {
            return Err(UNCLEAR);
        }
        match field.trim().to_ascii_lowercase().as_str() {
            "content-disposition" if described.is_some() => return Err(UNCLEAR),
            "content-disposition" => described = Some(value.trim()),
            "content-transfer-encoding" => {
                let plain = ["7bit", "8bit", "binary"];
                if !plain.iter().any(|plain| value.trim().eq_ignore_ascii_case(plain)) {
                    return Err(BadForm("a part of the form has a content-transfer-encoding"));
                }
            }
            _ => {}
        }
    }
    let mut rest = described
        .and_then(|value| value.strip_prefix("form-data"))
        .ok_or(UNCLEAR)?;
    let (mut name, mut is_file) = (None, false);
    while let Some(parameter) = rest.trim_start().strip_prefix(';') {
        let (key, after) = parameter.split_once('=').ok_or(UNCLEAR)?;
        let value;
        (value, rest) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let end = end_of_quoted(quoted).ok_or(UNCLEAR)?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => after.split_at(after.find(';').unwrap_or(after.len())),
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "name" if name.is_some() || value.contains('\\') => return Err(UNCLEAR),
            "name" => name = Some(value.trim().to_owned()),
            "name*" => return Err(UNCLEAR),
            "filename" | "filename*" => is_file = true,
            _ => {}
        }
    }
    if !rest.trim().is_empty() {
        return Err(UNCLEAR);
    }
    Ok((name.ok_or(UNCLEAR)?, is_file))
}

/// Where a quoted text ends that begins before `text`.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
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
        ] {
            assert_eq!(boundary(kind), found, "{kind}");
        }
    }

    #[test]
    fn the_parts_of_a_form_are_found_whatever_they_contain() {
        let form = "--x-1\nContent-Disposition: form-data; name=\"file\"; filename=\"a\\\";name=model.wav\"\n\
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
        let many = "--x-1\nContent-Disposition: form-data; name=a\n\n\n".repeat(MAX_FORM_PARTS + 1);
        assert!(read(&format!("{many}--x-1--")).is_err());
        let long = format!(
            "Content-Disposition: form-data; name=a\nx: {}",
            "y".repeat(MAX_PART_HEAD_BYTES)
        );
        assert!(with_head(&long).is_err());
    }
}
