//! What users rely on, row by row: each command, each setting and each route, with the test that holds
//! it. A row whose test is renamed or removed fails here, and so does a setting or a route that has no
//! row.

use std::collections::BTreeSet;

use crate::tidy::test_names;

/// Each command of the program.
const COMMANDS: &[(&str, &str)] = &[
    ("serve", "sigterm_answers_those_who_wait_and_exits_with_0"),
    ("demo", "demo_tells_the_story"),
    ("sim", "a_job_waits_runs_and_ends_as_its_id_says"),
    ("watch", "follow_ends_with_0_completed_3_failed_4_cancelled_5_not_found_6_expired_or_stopped"),
    ("watches", "watches_are_a_table_for_people_and_the_servers_page_or_lines_for_programs"),
    ("show", "show_tells_of_a_watch_its_story_of_a_delivery_its_attempts_and_of_an_event_its_data"),
    ("cancel", "cancel_stops_a_watch"),
    ("deliveries", "deliveries_are_listed_and_one_is_sent_again_by_retry"),
    ("retry", "retry_failed_asks_for_all_that_failed_in_a_span"),
    ("listen", "the_first_are_refused_and_attempts_are_counted_for_each_id"),
    ("verify", "a_signature_that_does_not_hold_comes_with_a_reason"),
    ("keys", "a_key_made_on_a_running_server_lets_in_until_it_is_revoked"),
    ("apps", "apps_and_keys_are_made_listed_and_revoked_on_a_server"),
    ("provider list", "provider_list_shows_what_can_be_watched_with_this_configuration"),
    ("provider check", "provider_check_runs_the_examples_and_lists_every_mistake"),
    ("provider poll", "provider_poll_asks_once_and_shows_what_was_understood"),
    ("config", "the_listing_shows_every_value_with_its_origin_and_no_secret"),
    ("openapi", "the_committed_document_is_the_one_that_the_program_prints"),
    ("completions", "completions_are_scripts_that_bash_can_read_and_name_every_command"),
    ("health", "health_is_0_while_the_service_answers_and_1_when_it_does_not"),
];

/// Each setting.
const SETTINGS: &[(&str, &str)] = &[
    ("listen", "a_flag_beats_a_variable_beats_the_file_beats_the_default"),
    ("metrics_listen", "with_a_listener_of_their_own_the_metrics_are_there_and_nowhere_else"),
    ("public_url", "every_attempt_sends_the_same_bytes_though_the_public_url_is_another_after_a_restart"),
    ("database_url", "a_database_on_a_server_is_named_by_its_url_and_its_password_is_never_shown"),
    ("api_key", "a_first_start_makes_a_key_and_a_secret_and_no_later_start_does"),
    ("signing_secret", "a_secret_that_stands_in_the_configuration_is_not_rotated"),
    ("encryption_key", "an_encryption_key_is_32_bytes_in_either_base64_and_no_message_repeats_it"),
    ("log", "no_secret_reaches_the_log_of_the_whole_story_in_text_and_nobody_forges_a_line"),
    ("log_format", "in_json_each_line_is_one_object_of_documented_fields_and_holds_no_secret"),
    ("shutdown_grace", "what_cannot_be_finished_within_the_grace_is_taken_up_at_the_next_start"),
    ("egress.allow", "what_may_be_reached_is_a_network_an_address_or_a_name"),
    ("egress.allow_http", "plain_http_to_a_name_needs_all_its_addresses_to_be_allowed"),
    ("egress.proxy", "looks_and_webhooks_go_through_the_proxy_which_resolves_and_alone_sees_its_password"),
    ("delivery.retry_schedule", "retries_follow_the_schedule_with_jitter_and_then_the_delivery_has_failed"),
    ("delivery.timeout", "a_receiver_that_does_not_answer_in_time_is_tried_again"),
    ("delivery.concurrency", "more_than_fits_in_hand_is_sent_all_the_same_once_each"),
    ("delivery.per_destination", "one_dead_receiver_does_not_slow_another"),
    ("retention.events", "what_has_ended_is_forgotten_after_the_retention_and_nothing_else_is"),
    ("retention.watches", "what_has_ended_is_forgotten_after_the_retention_and_nothing_else_is"),
    ("providers.path", "a_folder_adds_and_replaces_and_all_its_mistakes_are_listed"),
    ("providers.NAME.api_key", "providers_are_kept_by_name_and_checked_when_names_are_known"),
    ("providers.NAME.base_url", "the_credential_goes_to_the_named_hosts_and_the_operators_base_url_only"),
    ("providers.NAME.first", "looks_come_at_the_squares"),
    (
        "providers.NAME.min_interval",
        "a_look_that_is_asked_for_comes_at_once_but_not_sooner_than_the_least_interval",
    ),
    ("providers.NAME.max_interval", "no_gap_is_greater_than_the_greatest_interval"),
    ("providers.NAME.rate", "the_rate_is_never_exceeded_nor_by_a_restart"),
    ("providers.NAME.burst", "what_was_saved_up_is_spent_at_once_and_no_more"),
    ("providers.NAME.concurrency", "no_more_looks_are_in_flight_than_the_provider_takes"),
    ("smtp.url", "a_mail_arrives_with_starttls_and_login_and_is_what_the_contract_says"),
    ("smtp.from", "a_sender_may_have_a_name"),
    ("smtp.allow", "who_may_be_mailed_is_the_operators_word"),
    ("slack.bot_token", "a_channel_gets_its_message_from_the_bot"),
    ("slack.api_url", "a_channel_gets_its_message_from_the_bot"),
    ("templates.path", "a_broken_template_of_the_operators_is_refused_at_start_and_a_good_one_is_used"),
    ("telemetry.otlp_endpoint", "the_spans_of_a_job_are_one_tree_below_the_clients_span_also_over_a_restart"),
    ("telemetry.otlp_headers", "what_opentelemetry_calls_its_variables_goes_before_our_own_names"),
    ("telemetry.service_name", "what_opentelemetry_calls_its_variables_goes_before_our_own_names"),
];

/// Each route.
const ROUTES: &[(&str, &str)] = &[
    ("POST /v1/watches", "a_registration_answers_with_the_watch_and_where_it_is"),
    ("POST /v1/watches/batch", "a_batch_of_a_thousand_is_on_disk_when_it_is_answered"),
    ("GET /v1/watches", "lists_are_filtered_by_what_is_asked_for"),
    ("GET /v1/watches/{id}", "a_long_poll_is_answered_at_the_end_of_the_watch"),
    ("PATCH /v1/watches/{id}", "a_watch_is_given_more_time_and_more_destinations_and_other_metadata"),
    ("DELETE /v1/watches/{id}", "what_is_pending_when_a_watch_is_stopped_is_neither_sent_nor_retried"),
    ("POST /v1/watches/{id}/poll", "a_look_at_an_ended_job_refreshes_its_outputs_and_nothing_else"),
    ("GET /v1/watches/{id}/story", "a_story_tells_what_happened_in_order"),
    ("GET /v1/events", "pages_show_everything_once_and_end"),
    ("GET /v1/events/{id}", "an_id_that_is_unknown_or_malformed_is_not_found"),
    (
        "GET /v1/events/stream",
        "last_event_id_resumes_where_it_broke_off_and_nothing_is_skipped_or_told_twice",
    ),
    ("GET /v1/deliveries", "lists_are_filtered_by_what_is_asked_for"),
    ("GET /v1/deliveries/{id}", "every_way_of_not_answering_is_recorded_in_words_and_tried_again"),
    ("POST /v1/deliveries/{id}/retry", "a_failed_delivery_is_sent_again_by_hand_under_the_same_id"),
    ("POST /v1/deliveries/retry", "it_is_chosen_by_the_events_time_and_the_destination"),
    ("GET /v1/signing-secret", "a_first_start_makes_a_key_and_a_secret_and_no_later_start_does"),
    ("POST /v1/signing-secret/rotate", "after_a_rotation_both_secrets_sign_until_the_grace_is_over"),
    ("GET /v1/providers", "what_can_be_watched_is_shown_with_its_health_and_its_budget"),
    ("GET /v1/apps", "lists_of_apps_and_keys_are_read_page_by_page"),
    ("POST /v1/apps", "an_app_is_made_with_a_secret_that_only_this_answer_shows"),
    ("GET /v1/apps/{id}", "the_operator_sees_apps_and_keys_of_all_and_the_rest_of_its_own_app_only"),
    ("GET /v1/keys", "lists_of_apps_and_keys_are_read_page_by_page"),
    ("POST /v1/keys", "a_key_is_shown_once_and_kept_as_a_hash"),
    ("GET /v1/keys/{id}", "when_a_key_was_last_used_is_shown_at_once_and_written_within_a_minute"),
    ("DELETE /v1/keys/{id}", "a_key_that_has_expired_or_was_revoked_is_as_good_as_none"),
    ("GET /healthz", "it_is_alive_and_ready_without_a_key_and_not_ready_while_it_drains"),
    ("GET /readyz", "it_is_alive_and_ready_without_a_key_and_not_ready_while_it_drains"),
    ("GET /metrics", "every_metric_is_documented_and_every_documented_metric_is_there"),
    ("GET /openapi.json", "it_is_answered_to_everybody_and_shown_as_a_page_that_loads_nothing"),
    ("GET /docs", "it_is_answered_to_everybody_and_shown_as_a_page_that_loads_nothing"),
];

/// The words that a row is about, as the program knows them.
fn rows(table: &[(&str, &str)]) -> BTreeSet<String> {
    table.iter().map(|(row, _)| (*row).to_owned()).collect()
}

#[test]
fn every_row_of_the_contract_has_a_test_by_the_name_that_is_given() {
    let tests = test_names();
    let all = [COMMANDS, SETTINGS, ROUTES].concat();
    let missing: Vec<_> = all.iter().filter(|(_, test)| !tests.contains(*test)).collect();
    assert!(missing.is_empty(), "there is no such test: {missing:#?}");
}

#[test]
fn every_setting_and_every_route_has_its_row() {
    let settings = ringback::config::table().iter().map(|setting| setting.key.to_owned()).collect();
    assert_eq!(rows(SETTINGS), settings);
    let routes = ringback::api::ROUTES.iter().map(|route| format!("{route:?}")).collect();
    assert_eq!(rows(ROUTES), routes);
}
