//! Which test covers which snippet. A snippet that stands in no line here fails a test, and so does a line whose snippet is gone.

use super::{
    blocks::{Block, blocks, pages},
    root,
};
use std::{fs, path::Path};

/// A snippet, by its page and how it begins, and the test that takes it from there by [`blocks_of`].
type Covered = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const COVERED: &[Covered] = &[
    ("README.md", "cargo xtask dist", "the_wheel_brings_everything_into_an_empty_environment"),
    ("docs/installing.md", "tar -xzf", "installing_by_the_archive_and_by_debians_package_is_documented"),
    ("docs/installing.md", "sudo apt install", "installing_by_the_archive_and_by_debians_package_is_documented"),
    ("README.md", "cargo xtask demo", "the_first_two_commands_are_ones_that_xtask_knows"),
    ("docs/installing.md", "0.000 s  request sent", "the_demo_prints_what_its_page_shows"),
    ("README.md", "reveille config check", "the_readme_leads_from_a_config_to_an_answer"),
    ("README.md", "curl http://127.0.0.1:8420/v1/chat/completions", "the_readme_leads_from_a_config_to_an_answer"),
    ("README.md", "from openai import OpenAI", "the_readme_leads_from_a_config_to_an_answer"),
    ("docs/clients.md", "curl --cacert", "each_client_is_told_the_address_a_key_and_the_model_in_its_own_form"),
    ("docs/clients.md", "export OPENAI_API_BASE_URL=", "each_client_is_told_the_address_a_key_and_the_model_in_its_own_form"),
    ("docs/clients.md", "models:\n  - name:", "each_client_is_told_the_address_a_key_and_the_model_in_its_own_form"),
    ("docs/clients.md", "{\n  \"$schema\"", "each_client_is_told_the_address_a_key_and_the_model_in_its_own_form"),
    ("docs/clients.md", "export OPENAI_API_BASE=", "each_client_is_told_the_address_a_key_and_the_model_in_its_own_form"),
    ("docs/clients.md", "from langchain_openai", "each_client_is_told_the_address_a_key_and_the_model_in_its_own_form"),
    ("docs/clients.md", "const answer = await fetch", "each_client_is_told_the_address_a_key_and_the_model_in_its_own_form"),
    ("docs/commands.md", "reveille providers --at", "the_past_is_looked_up_by_the_documented_commands"),
    ("docs/commands.md", "reveille wakes ", "the_readme_leads_from_a_config_to_an_answer"),
    ("docs/operations.md", "reveille journal export --nats", "the_journal_is_archived_restored_and_folded_by_the_documented_commands"),
    ("docs/operations.md", "reveille journal export --from-postgres", "the_journal_is_archived_restored_and_folded_by_the_documented_commands"),
    ("docs/operations.md", "reveille journal verify journal.jsonl\nreveille journal import", "the_journal_is_archived_restored_and_folded_by_the_documented_commands"),
    ("docs/operations.md", "error: commit 3", "the_journal_is_archived_restored_and_folded_by_the_documented_commands"),
    ("docs/operations.md", "{\"format\":\"reveille-journal\"", "the_journal_is_archived_restored_and_folded_by_the_documented_commands"),
    ("docs/operations.md", "reveille audit --nats", "a_journal_is_audited_by_the_documented_commands"),
    ("docs/operations.md", "commit 19 (", "a_journal_is_audited_by_the_documented_commands"),
    ("docs/operations.md", "CREATE ROLE reveille", "the_rows_share_a_database_with_another_program_by_the_documented_statements"),
    ("docs/operations.md", "reveille rows rebuild", "the_journal_is_archived_restored_and_folded_by_the_documented_commands"),
    ("docs/subscribers.md", "{\n  \"v\": 1,", "the_journal_is_archived_restored_and_folded_by_the_documented_commands"),
    ("docs/one-pc.md", "pipx install", "the_wheel_brings_everything_into_an_empty_environment"),
    ("docs/one-pc.md", "reveille init --yes", "one_pc_wakes_a_model_and_becomes_a_service_by_the_documented_commands"),
    ("docs/one-pc.md", "curl http://127.0.0.1:8420", "one_pc_wakes_a_model_and_becomes_a_service_by_the_documented_commands"),
    ("docs/one-pc.md", "reveille sleep ollama", "one_pc_wakes_a_model_and_becomes_a_service_by_the_documented_commands"),
    ("docs/one-pc.md", "reveille logs ollama", "one_pc_wakes_a_model_and_becomes_a_service_by_the_documented_commands"),
    ("docs/one-pc.md", "reveille down\nmkdir", "one_pc_wakes_a_model_and_becomes_a_service_by_the_documented_commands"),
    ("docs/nas-and-gaming-pcs.md", "reveille up --agents", "two_commands_join_two_machines_and_a_third_one_is_answered"),
    ("docs/nas-and-gaming-pcs.md", "reveille join rvt_…  ", "two_commands_join_two_machines_and_a_third_one_is_answered"),
    ("docs/nas-and-gaming-pcs.md", "reveille agent token attic-pc", "a_hub_and_its_machines_come_back_and_the_hub_becomes_a_service_by_the_documented_commands"),
    ("docs/nas-and-gaming-pcs.md", "reveille key create --name alice", "two_commands_join_two_machines_and_a_third_one_is_answered"),
    ("docs/nas-and-gaming-pcs.md", "curl --cacert", "two_commands_join_two_machines_and_a_third_one_is_answered"),
    ("docs/nas-and-gaming-pcs.md", "reveille key revoke alice", "a_hub_and_its_machines_come_back_and_the_hub_becomes_a_service_by_the_documented_commands"),
    ("docs/nas-and-gaming-pcs.md", "reveille agent pause", "two_commands_join_two_machines_and_a_third_one_is_answered"),
    ("docs/nas-and-gaming-pcs.md", "sudo mkdir", "a_hub_and_its_machines_come_back_and_the_hub_becomes_a_service_by_the_documented_commands"),
    ("docs/nas-and-gaming-pcs.md", "reveille recipe test gaming-pc", "a_pc_that_is_off_is_woken_from_the_nas_by_the_documented_commands"),
    ("docs/rack.md", "mkdir -p /etc/reveille", "a_rack_answers_by_the_documented_commands_and_shows_a_server_out"),
    ("docs/rack.md", "NODE=a", "a_rack_answers_by_the_documented_commands_and_shows_a_server_out"),
    ("docs/rack.md", "ADDRESS=", "a_rack_answers_by_the_documented_commands_and_shows_a_server_out"),
    ("docs/rack.md", "export REVEILLE_DATA_DIR", "a_rack_answers_by_the_documented_commands_and_shows_a_server_out"),
    ("docs/rack.md", "VLLM_SERVER_DEV_MODE", "a_rack_answers_by_the_documented_commands_and_shows_a_server_out"),
    ("docs/rack.md", "ssh root@", "a_rack_answers_by_the_documented_commands_and_shows_a_server_out"),
    ("docs/rack.md", "reveille sleep gpu-1", "a_rack_answers_by_the_documented_commands_and_shows_a_server_out"),
    ("docs/rack.md", "curl --cacert", "a_rack_answers_by_the_documented_commands_and_shows_a_server_out"),
    ("docs/rack.md", "reveille agent revoke", "a_rack_answers_by_the_documented_commands_and_shows_a_server_out"),
    ("docs/operations.md", "reveille up --listen 0.0.0.0:8420", "the_api_is_served_over_tls_by_the_documented_commands"),
    ("docs/operations.md", "[Service]", "the_api_is_served_over_tls_by_the_documented_commands"),
    ("docs/keys.md", "reveille key create --name ci", "keys_are_made_rotated_and_revoked_by_the_documented_commands"),
    ("docs/recipes.md", "$ reveille logs vllm", "why_a_recipe_failed_is_said_in_its_test_in_the_agents_log_and_by_logs"),
    ("docs/configuration.md", "$ reveille init --yes", "an_installed_ollama_is_started_tried_and_stopped_again"),
    // No container engine and no service manager run here. What the commands name is looked at; what the files say runs as
    // processes in `compose.rs`, and is looked at by systemd-analyze in `systemd.rs`.
    ("docs/operations.md", "docker build --tag", "commands_that_no_test_can_run_name_what_is_there"),
    ("docs/operations.md", "echo \"REVEILLE_POSTGRES_PASSWORD=", "commands_that_no_test_can_run_name_what_is_there"),
    ("docs/operations.md", "docker compose exec api-1 reveille key create", "commands_that_no_test_can_run_name_what_is_there"),
    ("docs/operations.md", "systemctl enable", "commands_that_no_test_can_run_name_what_is_there"),
    ("docs/subscribers.md", "nats --server", "subscribers_are_told_by_the_documented_commands"),
    ("nats/README.md", "nats subscribe", "subscribers_are_told_by_the_documented_commands"),
    ("docs/subscribers.md", "import asyncio", "subscribers_are_told_by_the_documented_commands"),
    ("docs/subscribers.md", "python3 facts.py", "subscribers_are_told_by_the_documented_commands"),
    ("docs/subscribers.md", "9 reveille.facts", "subscribers_are_told_by_the_documented_commands"),
    ("docs/subscribers.md", "reveille events --follow", "subscribers_are_told_by_the_documented_commands"),
    ("docs/wake-on-demand.md", "(none) ──published, up", "pictures_use_the_names_of_what_they_show"),
    ("docs/wake-on-demand.md", "reveille agent pause", "the_owner_of_a_machine_pauses_and_resumes_its_agent_by_the_documented_commands"),
    ("ARCHITECTURE.md", "OpenAI clients ──HTTP──", "pictures_use_the_names_of_what_they_show"),
    ("README.md", "OpenAI client ──request──", "pictures_use_the_names_of_what_they_show"),
];

/// The snippets that a test covers, in the table's order.
pub fn blocks_of<const N: usize>(test: &str) -> [String; N] {
    let blocks = blocks();
    let mine = COVERED.iter().filter(|(.., by)| *by == test);
    let mine = mine.map(|covered| {
        blocks
            .iter()
            .find(|block| is(block, covered))
            .expect("a snippet")
            .text
            .clone()
    });
    let mine: Vec<_> = mine.collect();
    mine.try_into()
        .unwrap_or_else(|mine: Vec<_>| panic!("{test} has {} snippets: {mine:?}", mine.len()))
}

fn is(block: &Block, (page, begins, _): &Covered) -> bool {
    block.page == *page && block.text.starts_with(begins)
}

/// The text of this crate's tests.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a folder of tests");
    let text = |path: &Path| {
        if path.is_dir() {
            sources(path)
        } else {
            fs::read_to_string(path).expect("a test")
        }
    };
    entries
        .map(|entry| text(&entry.expect("a file").path()))
        .collect()
}

#[test]
fn every_snippet_of_the_documentation_is_covered_by_a_test() {
    let blocks = blocks();
    let sources = sources(&root().join("tests/tests/e2e"));
    for block in &blocks {
        let by = COVERED.iter().filter(|covered| is(block, covered)).count();
        let expected = usize::from(block.language != "toml");
        assert_eq!(
            by,
            expected,
            "{}: covered by {by} tests:\n{}",
            block.place(),
            block.text
        );
    }
    for covered in COVERED {
        let (page, begins, test) = covered;
        let found = blocks.iter().filter(|block| is(block, covered)).count();
        assert_eq!(found, 1, "{page}: {begins:?} begins {found} snippets");
        assert!(
            sources.contains(&format!("fn {test}()")),
            "there is no test {test}"
        );
    }
    assert!(
        blocks.len() >= 30 && pages().len() >= 20,
        "only {} snippets were found",
        blocks.len()
    );
}

#[test]
fn pictures_use_the_names_of_what_they_show() {
    let [lifecycle, parts, request] = blocks_of("pictures_use_the_names_of_what_they_show");
    for status in ["active", "hibernating", "waking", "down", "inactive"] {
        assert!(lifecycle.contains(status), "{status}");
    }
    for name in [
        "api",
        "agent",
        "projector",
        "journal",
        "facts",
        "Postgres",
        "backend",
    ] {
        assert!(parts.contains(name), "{name}");
    }
    for name in ["API", "NATS", "agent", "backend", "journal"] {
        assert!(request.contains(name), "{name}");
    }
}
