//! The model that a request asks for: by its backend's name for it, and with the preset in the request's body if it is one.
//!
//! A name that the provider doesn't publish goes to no backend. Some answer to any name, and one that was a preset's when the API chose
//! the provider would be answered without what the preset adds.

use super::{hidden_names::HiddenNames, preset, rename};
use crate::{
    config::{AnswerModelName, Preset, ProviderConfig},
    models::{Memory, Served},
};
use bytes::Bytes;
use reveille_bus::relay::{FaultCode, FormReader, PRESET_PATHS, RelayFault, RequestHead, takes_presets};
use reveille_domain::{AgentName, ModelName};

/// A request as it came, as far as it may name a model.
pub(super) struct AsAsked<'a> {
    pub head: &'a RequestHead,
    pub path: &'a str,
    /// Whether it is about an answer that the backend keeps: it names no model itself.
    pub is_stored: bool,
    pub query: &'a str,
    /// Its body as far as it was read.
    pub begun: Bytes,
    /// What has read that, if it is a form.
    pub form: Option<FormReader>,
}

/// The same with the backend's name of the model.
pub(super) struct ForBackend {
    pub query: String,
    pub begun: Bytes,
    /// What it names, if anything.
    pub model: Option<String>,
    /// What that is to callers, if the provider has it.
    pub served: Option<Served>,
}

impl AsAsked<'_> {
    /// What the backend of a provider gets.
    ///
    /// # Errors
    /// When the provider doesn't have what it asks for, or it can't be put together with the preset that it asks for.
    pub fn for_backend(
        self,
        memory: &Memory,
        agent: &AgentName,
        config: &ProviderConfig,
    ) -> Result<ForBackend, RelayFault> {
        let (mut served, mut is_unknown) = (None, false);
        let mut as_backend = |asked: &str| {
            served = memory.served(agent, config, asked);
            is_unknown = served.is_none();
            served.as_ref().map(|served| served.id.to_string())
        };
        let (query, mut begun, model) = if self.is_stored {
            if let Some(asked) = &self.head.model {
                as_backend(asked.as_str());
            }
            (self.query.to_owned(), self.begun, None)
        } else {
            let (query, in_query) = rename::rename_in_query(self.query, &mut as_backend);
            let (begun, model) = match (in_query, &self.form) {
                (Some(model), _) => (self.begun, Some(model)),
                (None, Some(form)) => rename::rename_in_form(self.begun, form, as_backend),
                (None, None) => rename::rename(self.begun, as_backend),
            };
            (query, begun, model)
        };
        let preset = served.as_ref().and_then(|served| served.preset.as_deref());
        if is_unknown || preset.map(Preset::hash) != self.head.preset {
            return Err(unknown(is_unknown));
        }
        if let Some(preset) = preset {
            begun = with_preset(preset, self.head, self.path, begun)?;
        }
        Ok(ForBackend {
            query,
            begun,
            model,
            served,
        })
    }
}

/// The fault for a name that the provider doesn't publish, or not as what the API took it for.
fn unknown(is_unknown: bool) -> RelayFault {
    let message = if is_unknown {
        "its agent publishes no model by this name now"
    } else {
        "its agent now has another preset by this name, or another model"
    };
    RelayFault::new(FaultCode::UnknownModel, message)
}

/// How an answer names its model, where not as the backend does.
pub(super) struct InAnswers {
    pub name: ModelName,
    /// The names that an error doesn't have.
    pub hidden: Option<HiddenNames>,
}

impl InAnswers {
    /// Where the request's name was changed by the config, so is the answer's, unless the config says otherwise. That of a preset always
    /// is: whoever may ask it alone doesn't get to know its model.
    pub fn of(config: &ProviderConfig, served: Served) -> Option<Self> {
        let hidden = HiddenNames::of(&served);
        let is_renamed = served.public != served.id;
        let is_public = match config.answer_model {
            _ if hidden.is_some() => true,
            Some(answer_model) => answer_model == AnswerModelName::Public,
            None => is_renamed,
        };
        is_public.then_some(Self {
            name: served.public,
            hidden,
        })
    }
}

/// The body with the preset in it, unless the request only asks about its model.
fn with_preset(preset: &Preset, head: &RequestHead, path: &str, body: Bytes) -> Result<Bytes, RelayFault> {
    if !PRESET_PATHS.contains(&path) && takes_presets(&head.method, path) {
        return Ok(body);
    }
    preset::put(&body, preset, path).map_err(|why| {
        let message = format!(
            "the request can't be put together with the preset `{}`: {why}",
            preset.name
        );
        RelayFault::new(FaultCode::BadRequest, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use reveille_domain::{PresetHash, ProviderName};

    const CHAT: &str = "/v1/chat/completions";
    const CONFIG: &str = "[[provider]]\nname = \"p\"\nbase_url = \"http://h:1\"\nmodels = [{ id = \"Org/Own\", as = \"m\" }]\n\
                          [[preset]]\nname = \"bot\"\nmodel = \"m\"\nsystem = \"x\"\n";

    fn head(path: &str, preset: Option<PresetHash>, model: Option<&str>) -> RequestHead {
        RequestHead {
            provider: ProviderName::parse("p").expect("legal"),
            method: "POST".to_owned(),
            path: path.to_owned(),
            headers: vec![],
            traceparent: None,
            hold_ms: None,
            turn_within_ms: None,
            model: model.map(|model| ModelName::parse(model).expect("legal")),
            preset,
            body_bytes: 0,
        }
    }

    fn for_backend(head: &RequestHead, query: &str, body: &str) -> Result<ForBackend, FaultCode> {
        let config = Config::parse(CONFIG, "test.toml", &|_| None).expect("legal");
        let asked = AsAsked {
            head,
            path: &head.path,
            is_stored: head.path.starts_with(reveille_bus::relay::STORED_PATH),
            query,
            begun: Bytes::copy_from_slice(body.as_bytes()),
            form: None,
        };
        let agent = AgentName::parse("box").expect("legal");
        let asked = asked.for_backend(&Memory::default(), &agent, &config.providers[0]);
        asked.map_err(|fault| fault.code)
    }

    fn bot() -> PresetHash {
        let config = Config::parse(CONFIG, "test.toml", &|_| None).expect("legal");
        config.presets[0].hash()
    }

    #[test]
    fn a_name_that_the_provider_does_not_publish_reaches_no_backend_wherever_it_is() {
        for model in ["m", "box/m", "box/p/m"] {
            let asked = for_backend(&head(CHAT, None, None), "", &format!(r#"{{"model":"{model}"}}"#));
            assert_eq!(asked.expect(model).begun, r#"{"model":"Org/Own"}"#, "{model}");
        }
        for model in [
            "other",
            "Org/Own",
            "M",
            "box/other",
            "lab/m",
            "box/q/m",
            "m:latest",
            "bots",
        ] {
            let of_body = for_backend(&head(CHAT, None, None), "", &format!(r#"{{"model":"{model}"}}"#));
            assert_eq!(of_body.err(), Some(FaultCode::UnknownModel), "{model}");
            let of_query = for_backend(&head("/props", None, None), &format!("model={model}"), "");
            assert_eq!(of_query.err(), Some(FaultCode::UnknownModel), "{model}");
            let of_stored = for_backend(&head("/v1/responses/r", None, Some(model)), "", "");
            assert_eq!(of_stored.err(), Some(FaultCode::UnknownModel), "{model}");
        }
    }

    #[test]
    fn a_name_counts_only_as_what_the_api_took_it_for() {
        let chat = |model: &str| format!(r#"{{"model":"{model}","messages":[]}}"#);
        let other = PresetHash::parse("0123456789ab").expect("legal");
        for (model, preset, is_taken) in [
            ("m", None, true),
            ("m", Some(bot()), false),
            ("bot", Some(bot()), true),
            ("box/bot", Some(bot()), true),
            ("bot", None, false),
            ("bot", Some(other), false),
        ] {
            let asked = for_backend(&head(CHAT, preset.clone(), None), "", &chat(model));
            let refused = asked.map(drop).err();
            assert_eq!(
                refused,
                (!is_taken).then_some(FaultCode::UnknownModel),
                "{model} {preset:?}"
            );
        }
        let nameless = for_backend(&head(CHAT, Some(bot()), None), "", r#"{"messages":[]}"#);
        assert_eq!(nameless.err(), Some(FaultCode::UnknownModel));
    }

    #[test]
    fn what_concerns_a_stored_answer_has_its_model_beside_it_and_keeps_its_query() {
        let asked = for_backend(
            &head("/v1/responses/r", Some(bot()), Some("bot")),
            "model=x&include=y",
            "",
        );
        let asked = asked.expect("it is the preset's");
        assert_eq!(
            (asked.query.as_str(), asked.begun.len()),
            ("model=x&include=y", 0)
        );
        assert_eq!(asked.served.expect("known").public.as_str(), "bot");
    }

    #[test]
    fn an_answer_of_a_preset_has_its_name_whatever_the_config_says_of_others() {
        let text = CONFIG.replace("models =", "answer_model = \"backend\"\nmodels =");
        let config = Config::parse(&text, "test.toml", &|_| None).expect("legal");
        let agent = AgentName::parse("box").expect("legal");
        let named = |asked: &str| {
            let served = Memory::default().served(&agent, &config.providers[0], asked);
            let named = InAnswers::of(&config.providers[0], served.expect("it is published"));
            named.map(|named| (named.name.to_string(), named.hidden.is_some()))
        };
        assert_eq!(named("m"), None);
        assert_eq!(named("bot"), Some(("bot".to_owned(), true)));
    }
}
