//! The order of each crate's modules: a module imports only from rows below its own, and never from its own row.
//!
//! A name is a module of the crate; `a/b` is a child of `a` with a row of its own, and any other child belongs to its
//! parent's row.

/// The layers of one crate.
pub struct Layers {
    /// The folder below `crates/`.
    pub name: &'static str,
    /// The rows, the highest first.
    pub from_top: &'static [&'static [&'static str]],
}

pub const CRATES: &[Layers] = &[AGENT, API, BUS, CLI, DOMAIN, PROJECTOR];

/// Gone: `config` took the prefix of Reveille's own variables from `child`, which takes its commands from `config`; `probe`
/// and `verify` shared the comparison of JSON, now `json_match`; in `recipe`, `step` extended the runner of `recipe` itself;
/// in `owner_policy`, `pause` and `watch` took functions of their parent; and in `provider`, `owner` took its inputs from
/// its parent, now `handle`.
const AGENT: Layers = Layers {
    name: "agent",
    from_top: &[
        &["session"],
        &["session/providers"],
        &["relay", "reload", "session/connect"],
        &["reload/socket"],
        &["reload/progress", "reload/reading", "reload/restart"],
        &["relay/hand_over"],
        &[
            "relay/backend",
            "relay/headers",
            "relay/model",
            "relay/outcome",
            "relay/request_body",
        ],
        &[
            "provider",
            "relay/answer_model",
            "relay/hidden_names",
            "relay/preset",
            "relay/rename",
        ],
        &["provider/owner"],
        &["relay/preset/evading", "relay/preset/parameters"],
        &["relay/preset/object", "relay/preset/surface"],
        &["provider/activity"],
        &[
            "provider/handle",
            "provider/report_order",
            "provider/reported_state",
        ],
        &["provider/groups"],
        &[
            "provider/demand",
            "provider/gate",
            "provider/happened",
            "provider/health",
            "provider/last_sleep",
            "provider/report_numbers",
        ],
        &["recipe"],
        &["recipe/runner"],
        &["recipe/answer"],
        &["recipe/timeline"],
        &["local_checks", "probe"],
        &["child", "models", "owner_policy", "verify"],
        &[
            "child/shims",
            "models/discover",
            "models/identity",
            "models/memory",
            "owner_policy/report",
            "owner_policy/wake_history",
            "owner_policy/watch",
        ],
        &[
            "child/hint",
            "child/shim",
            "models/dialects",
            "models/listed",
            "owner_policy/pause",
        ],
        &["backend_client", "child/launch"],
        &[
            "child/descendants",
            "child/environment",
            "child/orphans",
            "child/printed",
            "child/program",
            "child/report",
            "fetch",
            "listeners",
        ],
        &["fetch/decode", "http1"],
        &["http1/connector", "http1/deaf_peer"],
        &["http1/io_error", "http1/upload", "http1/wrong_answer"],
        &["tls"],
        &["tls/scheme"],
        &["tls/client_config", "tls/reason"],
        &["tls/verifier"],
        &["tls/certificate"],
        &["config"],
        &["config/changes", "config/file", "config/read"],
        &["config/read/preset", "config/read/provider"],
        &["config/read/recipe"],
        &["config/read/command", "config/read/network", "config/read/verify"],
        &["config/read/table"],
        &["config/read/unknown"],
        &["config/types"],
        &["config/places", "config/preset", "config/recipe"],
        &[
            "config/address",
            "config/error",
            "config/hours",
            "config/secret",
            "config/trust",
        ],
        &[
            "config/duration",
            "config/parameter_names",
            "config/regular_file",
            "config/suggest",
            "config/variables",
        ],
        &["output"],
        &["output/reader", "output/writer"],
        &["output/file", "output/text"],
        &[
            "error",
            "hub",
            "json_match",
            "lenient_json",
            "own_hub",
            "processes",
            "shell",
            "state_dir",
            "wol",
        ],
    ],
};

/// Gone: the server imported the handlers (`server/connection` from `http`), the handlers the composition root (`http` from
/// `service`), a source its reader's port (`history` from `http`), the request path its rendering (`inference` from
/// `http`), the counters what holds them (`metrics` from `inference`), and limits the commands (`keys/quota` from
/// `commands`).
const API: Layers = Layers {
    name: "api",
    from_top: &[
        &["service"],
        &["http"],
        &["config", "control", "inference", "why"],
        &["wakes"],
        &["commands"],
        &["metrics"],
        &["origin", "registry"],
        &[
            "agents",
            "history",
            "keys",
            "owner_refusals",
            "requests",
            "server",
            "staying_awake",
        ],
        &["guarded_body"],
    ],
};

/// Gone: `journal` and `follow` (entries and their decoding), `streams` and `archive` (the marks of an
/// import), `connection` and `access` (ending connections), and in the relay `client` and `exchange`, `server` and
/// `incoming`, `server` and `responder` (what each end shares).
const BUS: Layers = Layers {
    name: "bus",
    from_top: &[
        &["as_of"],
        &["archive"],
        &["archive/audit", "archive/import"],
        &["archive/file", "archive/live"],
        &["archive/error", "archive/stats"],
        &["archive/verify"],
        &["archive/commit"],
        &[
            "control",
            "enroll",
            "follow",
            "heartbeats",
            "orders",
            "relay",
            "requests",
        ],
        &["relay/client", "relay/server"],
        &["relay/exchange", "relay/incoming"],
        &["relay/responder"],
        &["relay/shared"],
        &["relay/pending_request", "relay/server_stream"],
        &["relay/inbox", "relay/link", "relay/outbox"],
        &["relay/error", "relay/upload", "relay/window"],
        &["relay/content"],
        &["relay/form", "relay/head"],
        &["relay/frame", "relay/last_event"],
        &["journal", "wakes"],
        &["journal/execute"],
        &["journal/append", "journal/read"],
        &["journal/load"],
        &["journal/context"],
        &["connection"],
        &["access", "upcast"],
        &["access/revoker"],
        &["access/auth_requests", "access/hub_keys"],
        &["access/join_token"],
        &["access/jwt"],
        &["access/nats_key", "access/role"],
        &["search"],
        &["canaries", "row_source"],
        &["ordered_reader"],
        &["entry", "streams"],
        &["commit", "messages"],
        &[
            "clock",
            "error",
            "loopback",
            "open_files",
            "permits",
            "private_file",
            "refusals",
            "retry_log",
            "subjects",
        ],
        &["health"],
        &["hub_id"],
    ],
};

/// Gone: `up/banner` took the enum `Hub` from `up`, which shows the banner; it is in `up/hub` now. `args` held every
/// command's arguments and parsed them with functions of `keys` and `journal`; each command has its own now, and `args`
/// what they share. `client` took the data directory from `up`, which is a client of its own API.
const CLI: Layers = Layers {
    name: "cli",
    from_top: &[
        &["cli"],
        &["status"],
        &["doctor"],
        &["rows_rebuild", "up"],
        &["up/banner"],
        &["up/hub"],
        &["up/nats_server", "up/parts"],
        &["up/agents_port", "up/disk", "up/nats_program"],
        &["services"],
        &[
            "audit",
            "command_line_files",
            "down",
            "logs",
            "meant",
            "past",
            "pause",
            "recipe_test",
        ],
        &["enroll"],
        &["config", "export", "hub_init", "journal", "keys", "reload"],
        &["client", "init"],
        &["api_auth", "hub", "tls"],
        &["args"],
        &["trial"],
        &["config_file"],
        &["data_dir", "signals"],
        &["progress"],
        &["listen", "logging"],
        &[
            "addresses",
            "failure",
            "replica",
            "sd_notify",
            "terminal",
            "whole_file",
        ],
    ],
};

/// Gone: the parts of an agent and of a key took their events and rejections from the file that had them as parts; the hash
/// of a secret belonged to keys, and agents took it from there; pages sorted rows, and rows were cut into pages.
const DOMAIN: Layers = Layers {
    name: "domain",
    from_top: &[
        &["as_of", "requests"],
        &["as_of/changes", "requests/recent"],
        &["as_of/world", "requests/query"],
        &["as_of/rows", "requests/usage"],
        &["as_of/known", "as_of/moment", "audit", "requests/record"],
        &["rows"],
        &[
            "audit/agent",
            "audit/groups",
            "audit/key",
            "audit/provider",
            "rows/memory",
        ],
        &["audit/findings", "rows/query"],
        &["audit/invariant", "rows/event", "rows/llm", "rows/wake"],
        &["rows/row_source", "rows/sort"],
        &["rows/page"],
        &["agent", "key", "provider"],
        &[
            "agent/access",
            "agent/sessions",
            "key/decide",
            "provider/decide",
            "provider/wake_rules",
        ],
        &[
            "agent/command",
            "agent/rejection",
            "key/command",
            "key/rejection",
            "key/state",
            "provider/command",
            "provider/rejection",
            "provider/evolve",
        ],
        &["agent/event", "key/event", "provider/event"],
        &["agent/agent_key", "key/policy", "provider/state"],
        &["key/priority", "key/scope"],
        &["spec", "wake"],
        &["model"],
        &[
            "aggregate",
            "balancing",
            "counted",
            "fair",
            "ids",
            "names",
            "secret",
            "time",
        ],
    ],
};

const PROJECTOR: Layers = Layers {
    name: "projector",
    from_top: &[
        &["audit", "rebuild"],
        &["run"],
        &["heartbeats", "request_log", "scratch"],
        &["projection"],
        &["query"],
        &[
            "archive", "as_of", "inspect", "llms", "replay", "requests", "wakes",
        ],
        &["commits", "migrate", "order"],
        &["sql"],
        &["backoff", "columns", "error"],
    ],
};

/// Where a module is in the order.
pub struct Row {
    /// The name in the table.
    pub name: &'static str,
    /// 1 for the lowest row.
    pub height: usize,
}

impl Layers {
    /// The row of a module: that of the longest name which is the module or a parent of it.
    pub fn row(&self, module: &[String]) -> Option<Row> {
        let named = |name: &str| {
            let name: Vec<&str> = name.split('/').collect();
            let is_in = name.len() <= module.len() && name.iter().zip(module).all(|(a, b)| a == b);
            is_in.then_some(name.len())
        };
        let rows = self.from_top.iter().rev().enumerate();
        let rows = rows.flat_map(|(index, row)| row.iter().map(move |name| (index + 1, *name)));
        rows.filter_map(|(height, name)| Some((named(name)?, Row { name, height })))
            .max_by_key(|(length, _)| *length)
            .map(|(_, row)| row)
    }

    /// Every name of the table.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.from_top.iter().flat_map(|row| row.iter().copied())
    }
}
