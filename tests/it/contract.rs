//! The public contract, row by row: each command, each setting and each route, with a test of it.
//!
//! The tests of this file fail if a named test does not exist, or if a command, a setting or a route has
//! no row.

use std::collections::BTreeSet;

use clap::CommandFactory as _;

use crate::tidy::{sources, test_names};

/// Every command of the program, with a test.
const COMMANDS: &[(&str, &str)] = &[
    ("serve", "on_sigterm_serve_answers_waiting_requests_and_exits_with_0"),
    ("demo", "demo_receives_every_expected_webhook"),
    ("sim", "the_id_decides_the_duration_and_the_end_of_a_job"),
    ("watch", "follow_exits_with_a_code_for_each_final_status"),
    ("group", "the_command_line_shows_lists_and_stops_a_group"),
    ("watches", "watches_prints_a_table_or_json"),
    ("show", "show_prints_a_watch_a_delivery_or_an_event"),
    ("stop", "stop_stops_a_watch"),
    ("erase", "erase_deletes_a_watch"),
    ("deliveries", "deliveries_are_listed_and_retried"),
    ("retry", "retry_failed_retries_all_failed_in_a_period"),
    ("destinations list", "saved_destinations_are_managed_on_the_command_line"),
    ("destinations create", "saved_destinations_are_managed_on_the_command_line"),
    ("destinations show", "saved_destinations_are_managed_on_the_command_line"),
    ("destinations update", "saved_destinations_are_managed_on_the_command_line"),
    ("destinations enable", "saved_destinations_are_managed_on_the_command_line"),
    ("destinations delete", "saved_destinations_are_managed_on_the_command_line"),
    ("destinations rotate-secret", "saved_destinations_are_managed_on_the_command_line"),
    ("listen", "attempts_are_counted_for_each_destination"),
    ("verify", "an_invalid_signature_is_explained"),
    ("test", "the_command_test_sends_and_explains"),
    ("credential add", "credentials_are_managed_on_the_command_line"),
    ("credential list", "credentials_are_managed_on_the_command_line"),
    ("credential remove", "credentials_are_managed_on_the_command_line"),
    ("keys create", "a_created_key_is_valid_until_it_is_revoked"),
    ("keys list", "apps_and_keys_are_created_listed_and_revoked"),
    ("keys revoke", "a_created_key_is_valid_until_it_is_revoked"),
    ("apps create", "apps_and_keys_are_created_listed_and_revoked"),
    ("apps list", "apps_and_keys_are_created_listed_and_revoked"),
    ("provider list", "provider_list_shows_the_configured_providers"),
    ("provider new", "provider_new_makes_a_definition_from_answers"),
    ("provider check", "provider_check_runs_the_examples_and_lists_errors"),
    ("provider try", "provider_try_shows_what_an_answer_means"),
    ("provider show-request", "provider_show_request_masks_the_credential"),
    ("provider push", "definitions_are_managed_on_the_command_line"),
    ("provider pull", "definitions_are_managed_on_the_command_line"),
    ("provider remove", "definitions_are_managed_on_the_command_line"),
    ("provider poll", "provider_poll_polls_once_and_shows_the_result"),
    ("config", "config_exits_with_1_and_lists_every_error"),
    ("openapi", "the_committed_document_is_the_one_that_the_program_prints"),
    ("completions", "completions_are_valid_and_name_every_command"),
    ("health", "health_exits_with_0_while_the_service_answers"),
];

/// Every setting, with a test.
const SETTINGS: &[(&str, &str)] = &[
    ("listen", "flags_override_variables_override_the_file"),
    ("metrics_listen", "with_metrics_listen_only_that_port_serves_metrics"),
    ("public_url", "every_attempt_sends_the_same_bytes_despite_a_new_public_url"),
    ("database_url", "a_postgres_url_is_shown_without_its_password"),
    ("api_key", "only_the_first_start_creates_a_key_and_a_secret"),
    ("signing_secret", "a_configured_secret_cannot_be_rotated"),
    ("encryption_key", "an_encryption_key_is_32_bytes_in_either_base64"),
    ("log", "the_log_filter_decides_what_is_logged"),
    ("log_format", "json_logs_have_documented_fields_and_no_secret"),
    ("shutdown_grace", "unfinished_attempts_are_repeated_at_the_next_start"),
    ("egress.allow", "an_allowed_entry_is_a_network_an_address_or_a_name"),
    ("egress.allow_http", "allow_http_permits_plain_http_wherever_https_may_go"),
    ("egress.proxy", "polls_and_webhooks_use_the_proxy_and_hide_its_password"),
    ("delivery.retry_schedule", "a_delivery_fails_after_the_schedule_with_jitter"),
    ("delivery.timeout", "a_timeout_is_retried"),
    ("delivery.concurrency", "attempts_in_flight_are_limited_in_total"),
    ("delivery.per_destination", "attempts_in_flight_are_limited_by_destination"),
    ("retention.events", "the_retention_deletes_only_events_and_ended_watches"),
    ("retention.watches", "the_retention_deletes_only_events_and_ended_watches"),
    ("providers.path", "a_folder_adds_and_replaces_definitions_and_lists_all_errors"),
    ("providers.NAME.api_key", "muvi_api_key_overrides_the_other_sources_of_the_key"),
    ("providers.NAME.shared", "a_key_that_is_not_shared_needs_a_credential_of_the_app"),
    ("providers.NAME.base_url", "the_credential_is_sent_to_listed_hosts_and_the_base_url_only"),
    ("providers.NAME.definition", "an_instance_has_a_credential_jobs_and_health_of_its_own"),
    ("providers.NAME.token_url", "a_token_is_used_until_shortly_before_its_end"),
    ("providers.NAME.hosts", "a_chosen_host_gets_the_credential_only_if_it_is_listed"),
    ("providers.NAME.allow_cancel", "what_cannot_be_cancelled_is_refused_and_not_stopped"),
    ("providers.NAME.first", "polls_are_at_squared_ages"),
    ("providers.NAME.min_interval", "a_requested_poll_starts_at_once_after_the_minimum_interval"),
    ("providers.NAME.max_interval", "no_interval_is_longer_than_the_maximum"),
    ("providers.NAME.rate", "the_rate_is_never_exceeded_not_even_by_a_restart"),
    ("providers.NAME.burst", "a_burst_is_granted_at_once_and_no_more"),
    ("providers.NAME.concurrency", "polls_in_flight_never_exceed_the_concurrency"),
    ("smtp.url", "a_mail_is_sent_with_starttls_and_login_as_documented"),
    ("smtp.from", "a_sender_may_have_a_display_name"),
    ("smtp.allow", "only_permitted_recipients_are_accepted"),
    ("smtp.timeout", "a_mail_server_may_need_nine_minutes_for_its_final_reply"),
    ("slack.bot_token", "a_channel_gets_its_message_from_the_bot"),
    ("slack.api_url", "a_channel_gets_its_message_from_the_bot"),
    ("templates.path", "an_invalid_template_is_refused_at_start"),
    ("telemetry.otlp_endpoint", "spans_of_a_watch_form_one_tree_across_a_restart"),
    ("telemetry.otlp_headers", "opentelemetry_variables_override_our_names"),
    ("telemetry.service_name", "opentelemetry_variables_override_our_names"),
];

/// Every route, with a test.
const ROUTES: &[(&str, &str)] = &[
    ("POST /v1/watches", "a_registration_returns_the_watch_and_its_location"),
    ("POST /v1/watches/batch", "a_batch_of_a_thousand_is_on_disk_when_it_is_answered"),
    ("GET /v1/watches", "watches_are_listed_newest_first_and_can_be_filtered"),
    ("GET /v1/watches/{id}", "a_long_poll_is_answered_at_the_end_of_the_watch"),
    ("PATCH /v1/watches/{id}", "a_change_adds_time_and_destinations_and_replaces_metadata"),
    ("DELETE /v1/watches/{id}", "an_erased_watch_leaves_only_positions"),
    ("POST /v1/watches/{id}/stop", "a_stopped_watch_sends_and_retries_nothing"),
    ("POST /v1/watches/stop", "watches_are_stopped_by_a_filter"),
    ("GET /v1/operations/{id}", "an_operation_is_shown_for_a_day"),
    ("POST /v1/watches/{id}/poll", "a_poll_of_an_ended_job_refreshes_only_its_outputs"),
    ("GET /v1/watches/{id}/timeline", "a_timeline_lists_what_happened_in_order"),
    ("GET /v1/groups/{id}", "a_group_is_completed_once_when_all_its_watches_have_ended"),
    ("GET /v1/events", "events_are_listed_oldest_first_by_type_and_after_an_event"),
    ("GET /v1/events/{id}", "an_event_by_id_equals_the_event_in_the_feed"),
    ("GET /v1/events/stream", "last_event_id_resumes_a_stream_without_gap_or_duplicate"),
    ("GET /v1/deliveries", "deliveries_are_listed_newest_first_and_can_be_filtered"),
    ("GET /v1/deliveries/{id}", "a_delivery_is_shown_with_its_attempts"),
    ("GET /v1/deliveries/{id}/attempts", "a_delivery_has_its_newest_attempts_and_a_list_of_all"),
    ("GET /v1/deliveries/{id}/body", "the_body_of_a_delivery_is_byte_for_byte_what_was_sent"),
    ("POST /v1/deliveries/{id}/retry", "a_failed_delivery_is_retried_manually_under_the_same_id"),
    ("POST /v1/deliveries/retry", "a_retry_selects_by_event_time_and_destination"),
    ("POST /v1/destinations", "a_saved_destination_is_created_listed_changed_and_deleted"),
    ("GET /v1/destinations", "a_saved_destination_is_created_listed_changed_and_deleted"),
    ("GET /v1/destinations/{id}", "the_health_of_a_destination_covers_a_day"),
    ("PATCH /v1/destinations/{id}", "a_change_applies_to_pending_deliveries"),
    ("DELETE /v1/destinations/{id}", "a_destination_that_a_running_watch_names_is_not_deleted"),
    ("POST /v1/destinations/{id}/enable", "a_disabled_destination_skips_and_enabling_sends_what_was_skipped"),
    ("POST /v1/destinations/{id}/rotate-secret", "both_secrets_sign_within_the_grace"),
    ("POST /v1/destinations/{id}/test", "a_disabled_destination_is_tested_and_nothing_changes"),
    ("GET /v1/signing-secret", "the_signing_secret_of_the_api_signs_webhooks"),
    ("POST /v1/signing-secret/rotate", "after_a_rotation_both_secrets_sign_until_the_grace_ends"),
    ("GET /v1/providers/{id}", "what_can_be_watched_is_shown_with_its_health_and_its_budget"),
    ("GET /v1/providers/{id}/definition", "a_definition_of_an_app_polls_its_jobs"),
    ("PUT /v1/providers/{id}/definition", "a_wrong_definition_is_refused_with_every_mistake"),
    ("DELETE /v1/providers/{id}/definition", "a_running_watch_keeps_its_version_of_a_definition"),
    ("GET /v1/providers", "what_can_be_watched_is_shown_with_its_health_and_its_budget"),
    ("GET /v1/credentials", "a_poll_sends_the_credential_that_it_names"),
    ("POST /v1/credentials", "the_error_of_a_credential_names_the_field_and_the_remedy"),
    ("DELETE /v1/credentials/{id}", "a_credential_in_use_cannot_be_deleted"),
    ("GET /v1/apps", "lists_of_apps_and_keys_are_paged"),
    ("POST /v1/apps", "the_signing_secret_of_a_new_app_is_shown_once"),
    ("GET /v1/apps/{id}/jwks.json", "public_keys_of_an_app_are_shown_without_a_key"),
    ("POST /v1/test", "a_test_is_sent_once_and_shows_the_answer"),
    ("GET /v1/apps/{id}", "the_operator_manages_all_apps_but_reads_only_its_own_data"),
    ("PATCH /v1/apps/{id}", "an_app_is_renamed"),
    ("DELETE /v1/apps/{id}", "a_deleted_app_is_erased"),
    ("GET /v1/keys", "lists_of_apps_and_keys_are_paged"),
    ("POST /v1/keys", "a_key_is_shown_once_and_stored_as_a_hash"),
    ("GET /v1/keys/{id}", "the_last_use_of_a_key_is_stored_within_a_minute"),
    ("DELETE /v1/keys/{id}", "an_expired_or_revoked_key_is_401"),
    ("GET /healthz", "health_needs_no_key_and_readiness_ends_with_the_drain"),
    ("GET /readyz", "health_needs_no_key_and_readiness_ends_with_the_drain"),
    ("GET /metrics", "the_documented_metrics_are_the_exported_ones"),
    ("GET /openapi.json", "the_document_and_its_page_need_no_key_and_load_nothing"),
    ("GET /docs", "the_document_and_its_page_need_no_key_and_load_nothing"),
];

/// Returns the first column of a table.
fn rows(table: &[(&str, &str)]) -> BTreeSet<String> {
    table.iter().map(|(row, _)| (*row).to_owned()).collect()
}

#[test]
fn every_row_of_the_contract_names_an_existing_test() {
    let tests = test_names();
    let all = [COMMANDS, SETTINGS, ROUTES].concat();
    let missing: Vec<_> = all.iter().filter(|(_, test)| !tests.contains(*test)).collect();
    assert!(missing.is_empty(), "there is no such test: {missing:#?}");
}

/// Returns the full names of all commands without subcommands.
fn commands(command: &clap::Command, before: &str) -> Vec<String> {
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    let named = below.map(|below| (below, format!("{before} {}", below.get_name()).trim().to_owned()));
    let all = named.flat_map(|(below, words)| {
        let deeper = commands(below, &words);
        if deeper.is_empty() { vec![words] } else { deeper }
    });
    all.collect()
}

#[test]
fn every_command_setting_and_route_has_a_row() {
    let all = commands(&ringback::cli::Cli::command(), "");
    assert_eq!(rows(COMMANDS), all.into_iter().collect());
    // A setting of a channel may be tested in the channel's own file instead.
    let in_channels: Vec<String> = sources(&["src/channels"])
        .iter()
        .filter_map(|file| {
            Some(
                std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
                    .ok()?
                    .split_once("#[cfg(test)]")?
                    .1
                    .to_owned(),
            )
        })
        .collect();
    let is_tested = |key: &str| in_channels.iter().any(|tests| tests.contains(key));
    let settings: BTreeSet<String> = ringback::config::table().iter().map(|one| one.key.to_owned()).collect();
    let rows_of_settings = rows(SETTINGS);
    let unknown: Vec<_> = rows_of_settings.difference(&settings).collect();
    let without_row: Vec<_> = settings.difference(&rows_of_settings).filter(|key| !is_tested(key)).collect();
    assert!(unknown.is_empty() && without_row.is_empty(), "{unknown:?} {without_row:?}");
    let routes = ringback::api::ROUTES.iter().map(|route| format!("{route:?}")).collect();
    assert_eq!(rows(ROUTES), routes);
}
