//! Puts a preset into the JSON of a request: its system prompt before the request's own, its parameters where the request has none,
//! and its pinned ones in place of the request's. Everything else stays, byte for byte.
//!
//! A field that it touches is refused when it is there twice, or once in another case: backends differ in which of them they take,
//! so the request's could win over a pinned one.

mod evading;
mod object;
mod parameters;
mod surface;
#[cfg(test)]
mod tests;

use crate::config::{Preset, Secret};
use bytes::{Bytes, BytesMut};
pub(super) use object::Conflict;
use object::{Object, first_of};
use parameters::Wanted;
use serde_json::Value;
use std::{collections::BTreeSet, ops::Range};
use surface::{OPTIONS, Spot, Surface, SystemPlace};

/// Between the preset's system prompt and the request's own.
const BETWEEN: &str = "\n\n";

/// The body of a request for `path` with the preset in it.
///
/// # Errors
/// When there is no place for it.
pub(super) fn put(body: &Bytes, preset: &Preset, path: &str) -> Result<Bytes, Conflict> {
    let surface = Surface::of_path(path).ok_or_else(|| format!("{path} has no place for a preset"))?;
    let text = std::str::from_utf8(body).map_err(|_| "the body is not UTF-8".to_owned())?;
    let mut edits = Edits {
        text,
        edits: Vec::new(),
    };
    edits.preset(preset, surface)?;
    Ok(edits.applied())
}

/// What is to change of a text.
struct Edits<'a> {
    text: &'a str,
    /// These bytes are replaced by these texts. No two overlap.
    edits: Vec<(Range<usize>, String)>,
}

/// A request, as far as a preset has to do with it.
struct Request<'a> {
    top: Object<'a>,
    /// The objects in it that may have parameters.
    inner: Vec<(&'static str, Object<'a>)>,
}

impl<'a> Request<'a> {
    /// Reads what a preset has to do with.
    fn read(
        text: &'a str,
        preset: &Preset,
        surface: Surface,
        wanted: &[Wanted<'_>],
    ) -> Result<Self, Conflict> {
        let spots: Vec<_> = wanted.iter().flat_map(Wanted::spots).collect();
        let mut inside: BTreeSet<_> = spots.iter().filter_map(|spot| spot.object).collect();
        let mut names = names_in(&spots, None);
        if preset.system.is_some() {
            names.extend(surface.own_fields());
            names.extend(evading::names());
            inside.insert(OPTIONS);
        }
        names.extend(inside.iter().copied().collect::<Vec<_>>());
        let top = Object::read(text, &Vec::from_iter(names))?;
        let mut inner = Vec::new();
        for name in inside {
            let Some(own) = top.get(name).filter(|own| own.starts_with('{')) else {
                continue;
            };
            let mut names = names_in(&spots, Some(name));
            if name == OPTIONS && preset.system.is_some() {
                names.extend(evading::names());
            }
            inner.push((name, Object::read(own, &Vec::from_iter(names))?));
        }
        Ok(Self { top, inner })
    }

    fn inner(&self, name: &str) -> Option<&Object<'a>> {
        let found = self.inner.iter().find(|(inner, _)| *inner == name);
        found.map(|(_, object)| object)
    }

    fn has(&self, spot: Spot<'_>) -> bool {
        let object = match spot.object {
            None => Some(&self.top),
            Some(name) => self.inner(name),
        };
        object.is_some_and(|object| object.has(spot.name))
    }
}

impl<'a> Edits<'a> {
    fn preset(&mut self, preset: &Preset, surface: Surface) -> Result<(), Conflict> {
        let wanted = Wanted::all(preset, surface.api);
        let request = Request::read(self.text, preset, surface, &wanted)?;
        let mut added = Vec::new();
        if let Some(system) = preset.system.as_ref().map(Secret::reveal) {
            let own = surface.own_fields();
            let is_replaced = |field: &str| {
                let mut pinned = wanted.iter().filter(|wanted| wanted.is_pinned);
                pinned.any(|wanted| wanted.spots().any(|spot| spot.name == field))
            };
            let objects: Vec<_> = [&request.top].into_iter().chain(request.inner(OPTIONS)).collect();
            evading::check(&objects, |field| own.contains(&field) || is_replaced(field))?;
            added.extend(self.system(system, surface, &request.top)?);
        }
        added.extend(self.parameters(&request, &wanted)?);
        self.add(&request.top, &added);
        Ok(())
    }

    /// Puts the system prompt in its place. Returns the field that is to be added for it.
    fn system(
        &mut self,
        system: &str,
        surface: Surface,
        object: &Object<'a>,
    ) -> Result<Option<String>, Conflict> {
        let place = surface.system;
        let field = place.field();
        if let Some(prompt) = surface.prompt
            && object.get(prompt).is_some_and(|prompt| !prompt.starts_with('"'))
        {
            return Err(format!(
                "`{prompt}` must be a text, since a preset's system prompt comes before it"
            ));
        }
        let own = object.get(field);
        match place {
            SystemPlace::FirstMessage => {
                if let Some(messages) = own {
                    if !messages.starts_with('[') {
                        return Err(format!(
                            "`{field}` must be an array, since the preset's comes first in it"
                        ));
                    }
                    self.first_message(system, messages)?;
                }
                Ok(None)
            }
            SystemPlace::Text(_) | SystemPlace::TextOrBlocks(_) => match own {
                None => Ok(self.set(object, field, &quoted(system))),
                Some(own) if own.starts_with('"') => {
                    self.before_text(system, own);
                    Ok(None)
                }
                Some(own) if own.starts_with('[') && matches!(place, SystemPlace::TextOrBlocks(_)) => {
                    self.first_item(own, &text_block(system));
                    Ok(None)
                }
                Some(_) => Err(format!(
                    "`{field}` must be a text, since the preset's comes before it"
                )),
            },
        }
    }

    /// Puts the system prompt into the first of these messages, if that is of the system, or before it. Without a message there is
    /// nothing to answer.
    fn first_message(&mut self, system: &str, messages: &'a str) -> Result<(), Conflict> {
        let Some(first) = first_of(messages) else {
            return Ok(());
        };
        if first.starts_with('{') {
            let message = Object::read(first, &["role", "content"])?;
            let role = message
                .get("role")
                .and_then(|role| serde_json::from_str::<String>(role).ok());
            let content = message.get("content").unwrap_or_default();
            if matches!(role.as_deref(), Some("system" | "developer")) {
                if content.starts_with('"') {
                    self.before_text(system, content);
                    return Ok(());
                }
                if content.starts_with('[') {
                    self.first_item(content, &text_block(system));
                    return Ok(());
                }
            }
        }
        let message = format!(r#"{{"role":"system","content":{}}}"#, quoted(system));
        self.first_item(messages, &message);
        Ok(())
    }

    /// Sets the parameters. Returns the fields that are to be added for them.
    fn parameters(&mut self, request: &Request<'a>, wanted: &[Wanted<'_>]) -> Result<Vec<String>, Conflict> {
        let set: Vec<_> = wanted
            .iter()
            .flat_map(|wanted| wanted.set(|spot| request.has(spot)))
            .collect();
        let is_at_top = |name: &str| {
            set.iter()
                .any(|(spot, _)| spot.object.is_none() && spot.name == name)
        };
        let mut added = Vec::new();
        for (spot, value) in set.iter().filter(|(spot, _)| spot.object.is_none()) {
            added.extend(self.set(&request.top, spot.name, value));
        }
        // An object that is replaced as a whole has nothing of its own.
        let inside: BTreeSet<_> = set.iter().filter_map(|(spot, _)| spot.object).collect();
        for object in inside.into_iter().filter(|object| !is_at_top(object)) {
            let fields = set.iter().filter(|(spot, _)| spot.object == Some(object));
            match request.inner(object) {
                Some(own) => {
                    let fields: Vec<_> = fields
                        .filter_map(|(spot, value)| self.set(own, spot.name, value))
                        .collect();
                    self.add(own, &fields);
                }
                None if request.top.has(object) => {
                    return Err(format!(
                        "`{object}` must be an object, since the preset sets some"
                    ));
                }
                None => {
                    let fields: Vec<_> = fields.map(|(spot, value)| field(spot.name, value)).collect();
                    let whole = format!("{{{}}}", fields.join(","));
                    added.extend(self.set(&request.top, object, &whole));
                }
            }
        }
        Ok(added)
    }

    /// Replaces a field's value, or returns the field for being added.
    fn set(&mut self, object: &Object<'a>, name: &str, value: &str) -> Option<String> {
        match object.raw(name) {
            Some(raw) => {
                let place = self.place_of(raw);
                self.edits.push((place, value.to_owned()));
                None
            }
            None => Some(field(name, value)),
        }
    }

    /// Adds fields at the beginning of an object.
    fn add(&mut self, object: &Object<'a>, fields: &[String]) {
        if fields.is_empty() {
            return;
        }
        let at = self.place_of(object.text).start + 1;
        let comma = if object.is_empty { "" } else { "," };
        self.edits.push((at..at, fields.join(",") + comma));
    }

    /// Adds an item at the beginning of an array.
    fn first_item(&mut self, array: &'a str, item: &str) {
        let at = self.place_of(array).start + 1;
        let is_empty = array[1..].trim_start().starts_with(']');
        let comma = if is_empty { "" } else { "," };
        self.edits.push((at..at, format!("{item}{comma}")));
    }

    /// Adds a text at the beginning of a text.
    fn before_text(&mut self, system: &str, text: &'a str) {
        let at = self.place_of(text).start + 1;
        let between = if text == "\"\"" { "" } else { BETWEEN };
        let quoted = quoted(&format!("{system}{between}"));
        self.edits.push((at..at, quoted[1..quoted.len() - 1].to_owned()));
    }

    /// Where a part of the text is.
    fn place_of(&self, part: &str) -> Range<usize> {
        let start = part.as_ptr().addr() - self.text.as_ptr().addr();
        start..start + part.len()
    }

    fn applied(mut self) -> Bytes {
        self.edits.sort_by_key(|(place, _)| place.start);
        let more: usize = self.edits.iter().map(|(_, new)| new.len()).sum();
        let mut changed = BytesMut::with_capacity(self.text.len() + more);
        let mut passed = 0;
        for (place, new) in &self.edits {
            changed.extend_from_slice(&self.text.as_bytes()[passed..place.start]);
            changed.extend_from_slice(new.as_bytes());
            passed = place.end;
        }
        changed.extend_from_slice(&self.text.as_bytes()[passed..]);
        changed.freeze()
    }
}

/// The names that parameters have in an object of the request, or beside these.
fn names_in<'p>(spots: &[Spot<'p>], object: Option<&str>) -> BTreeSet<&'p str> {
    let within = spots.iter().filter(|spot| spot.object == object);
    within.map(|spot| spot.name).collect()
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text as one of the parts of a message or of a system prompt.
fn text_block(text: &str) -> String {
    format!(r#"{{"type":"text","text":{}}}"#, quoted(text))
}

/// A field as an object has it.
fn field(name: &str, value: &str) -> String {
    format!("{}:{value}", quoted(name))
}
