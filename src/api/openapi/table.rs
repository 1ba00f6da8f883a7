//! The operations, one after the other as the document lists them.

use crate::store::Scope;

/// One method of one path.
pub(super) struct Operation {
    /// In lower case.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    /// What a key must be good for; `None`: no key is asked for.
    pub(super) scope: Option<Scope>,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    pub(super) query: &'static [&'static str],
    pub(super) body: Option<Body>,
    pub(super) answers: &'static [Answer],
    /// Beyond those that follow from what the operation is like.
    pub(super) refuses: &'static [(u16, &'static str)],
}

/// What is sent.
pub(super) struct Body {
    pub(super) schema: &'static str,
    /// Whether it may be left out.
    pub(super) optional: bool,
    pub(super) example: &'static str,
}

/// A good answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) description: &'static str,
    pub(super) headers: &'static [(&'static str, &'static str)],
    pub(super) shape: Shape,
}

/// What an answer looks like.
pub(super) enum Shape {
    /// One of these.
    One(&'static str),
    /// A page of these.
    Page(&'static str),
    /// An object of these fields and their types.
    Fields(&'static [(&'static str, &'static str)]),
    /// Any object.
    Any,
    /// Nothing.
    Nothing,
    /// A text of this media type.
    Text(&'static str),
}

/// What a status means where nothing else is said.
const MEANINGS: &[(u16, &str)] = &[
    (400, "The body is not JSON, not UTF-8, or broke off."),
    (401, "There is no valid key."),
    (403, "The key has not the scope."),
    (404, "Unknown, malformed, or another app's."),
    (408, "The body did not arrive within 30 s."),
    (409, "A request with this Idempotency-Key is still under way."),
    (413, "The body is too large."),
    (415, "The body is not `application/json`, or has a content-encoding."),
    (422, "Something in the body, the query or the headers is wrong: each by name."),
    (500, "A bug."),
    (503, "Later perhaps: the database is not available, or there are too many of these at once."),
];

impl Operation {
    pub(super) fn is_post(&self) -> bool {
        self.method == "post"
    }

    /// What the id begins with, where the path has one.
    pub(super) fn names_one(&self) -> Option<&'static str> {
        let kinds = [
            ("/v1/watches/{id}", "watch_"),
            ("/v1/events/{id}", "evt_"),
            ("/v1/deliveries/{id}", "dlv_"),
            ("/v1/apps/{id}", "app_"),
            ("/v1/keys/{id}", "key_"),
        ];
        kinds.iter().find(|(path, _)| self.path.starts_with(path)).map(|(_, prefix)| *prefix)
    }

    /// The statuses of its problems, in their order.
    pub(super) fn problems(&self) -> Vec<u16> {
        let mut problems: Vec<u16> = self.refuses.iter().map(|(status, _)| *status).collect();
        if let Some(scope) = self.scope {
            problems.extend([401, 422, 500, 503]);
            if scope > Scope::Read {
                problems.push(403);
            }
            if self.names_one().is_some() {
                problems.push(404);
            }
            if self.is_post() {
                problems.push(409);
            }
            if self.is_post() || self.body.is_some() {
                problems.extend([400, 408, 413, 415]);
            }
        }
        problems.sort_unstable();
        problems.dedup();
        problems
    }

    /// What a status means here.
    pub(super) fn why(&self, status: u16) -> &'static str {
        let of = |known: &'static [(u16, &'static str)]| {
            known.iter().find(|(one, _)| *one == status).map(|(_, why)| *why)
        };
        of(self.refuses).or_else(|| of(MEANINGS)).unwrap_or("")
    }
}

pub(super) const TAGS: &[(&str, &str)] = &[
    ("Watches", "What is watched."),
    ("Events", "What happened to watches, oldest first; none is ever skipped."),
    ("Deliveries", "What was sent of it, and what came of that."),
    ("Providers", "What can be watched."),
    ("Secrets", "What receivers verify by."),
    (
        "Tenants",
        "Apps, which see nothing of each other, and the keys with which they come in. Admins of the \
        first app manage them all; of any other, their own.",
    ),
    ("Service", "The service itself."),
];

const SECRET_CONFLICT: &str = "The secret stands in the server's configuration; or this Idempotency-Key is still \
    under way, or was used with another API key.";
const APP_CONFLICT: &str = "Another app has this name, or there are too many; or this Idempotency-Key is still \
    under way, or was used with another API key.";
const KEY_CONFLICT: &str = "The app has too many keys; or this Idempotency-Key is still under way, or was used \
    with another API key.";

const fn ok(description: &'static str, shape: Shape) -> Answer {
    Answer { status: 200, description, headers: &[], shape }
}

/// What there is.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/watches",
        id: "createWatch",
        tag: "Watches",
        scope: Some(Scope::Write),
        summary: "Watch a job",
        description: "Registers a watch: its destinations hear how the job ends, whatever comes in between. \
            Without an `Idempotency-Key` the same job and address make two watches.",
        query: &[],
        body: Some(Body {
            schema: "Registration",
            optional: false,
            example: r#"{"jobId": "job_abc123def456", "callbackUrl": "https://app.example.com/hooks/muvi", "metadata": {"orderId": 42}}"#,
        }),
        answers: &[Answer {
            status: 201,
            description: "It is on disk.",
            headers: &[("Location", "The watch.")],
            shape: Shape::One("Watch"),
        }],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/v1/watches",
        id: "listWatches",
        tag: "Watches",
        scope: Some(Scope::Read),
        summary: "List watches",
        description: "Newest first.",
        query: &["limit", "cursor", "status", "provider", "jobId"],
        body: None,
        answers: &[ok("A page.", Shape::Page("Watch"))],
        refuses: &[],
    },
    Operation {
        method: "post",
        path: "/v1/watches/batch",
        id: "createWatches",
        tag: "Watches",
        scope: Some(Scope::Write),
        summary: "Watch many jobs",
        description: "Up to 1,000 registrations in up to 8 MiB. Each item is answered in its place, as if it \
            had come alone; those that are right are registered together, and if that is not \
            possible none is.",
        query: &[],
        body: Some(Body {
            schema: "Batch",
            optional: false,
            example: r#"{"watches": [{"jobId": "job_abc123def456", "notify": []}]}"#,
        }),
        answers: &[ok("What became of each.", Shape::One("BatchAnswer"))],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/v1/watches/{id}",
        id: "showWatch",
        tag: "Watches",
        scope: Some(Scope::Read),
        summary: "Show a watch",
        description: "With `wait`, answers as soon as the watch has ended; its webhook may still be on the \
            way.",
        query: &["wait"],
        body: None,
        answers: &[ok("The watch.", Shape::One("Watch"))],
        refuses: &[],
    },
    Operation {
        method: "patch",
        path: "/v1/watches/{id}",
        id: "amendWatch",
        tag: "Watches",
        scope: Some(Scope::Write),
        summary: "Change a watch that still waits",
        description: "What is given is changed: another expiry, further destinations, other metadata. What was \
            made before stays as it is.",
        query: &[],
        body: Some(Body {
            schema: "Amendment",
            optional: false,
            example: r#"{"expiresIn": "48h", "notify": ["https://app.example.com/hooks/more"]}"#,
        }),
        answers: &[ok("The watch as it is now.", Shape::One("Watch"))],
        refuses: &[(409, "The watch has ended.")],
    },
    Operation {
        method: "delete",
        path: "/v1/watches/{id}",
        id: "stopWatch",
        tag: "Watches",
        scope: Some(Scope::Write),
        summary: "Stop a watch",
        description: "One that is watching becomes `stopped`; one that has ended keeps its ending and loses \
            what is still pending. A send in flight may still arrive.",
        query: &[],
        body: None,
        answers: &[ok("The watch.", Shape::One("Watch"))],
        refuses: &[],
    },
    Operation {
        method: "post",
        path: "/v1/watches/{id}/poll",
        id: "pollWatch",
        tag: "Watches",
        scope: Some(Scope::Write),
        summary: "Look now",
        description: "The job is looked at as soon as rate and least gap allow. On an ended watch: one look, \
            which can refresh the outputs and changes nothing else.",
        query: &[],
        body: None,
        answers: &[Answer {
            status: 202,
            description: "It is on disk that somebody wants to look.",
            headers: &[],
            shape: Shape::One("Watch"),
        }],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/v1/watches/{id}/story",
        id: "showStory",
        tag: "Watches",
        scope: Some(Scope::Read),
        summary: "NotifyWatches what happened",
        description: "Everything, in order.",
        query: &["limit", "cursor"],
        body: None,
        answers: &[ok("The story, from its beginning.", Shape::Page("TimelineEntry"))],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/v1/events",
        id: "listEvents",
        tag: "Events",
        scope: Some(Scope::Read),
        summary: "List events",
        description: "Oldest first; `after` goes on after an event that was seen.",
        query: &["limit", "cursor", "after", "type"],
        body: None,
        answers: &[ok("A page.", Shape::Page("Event"))],
        refuses: &[(410, "There is no event by the id that `after` names, or not any more.")],
    },
    Operation {
        method: "get",
        path: "/v1/events/stream",
        id: "streamEvents",
        tag: "Events",
        scope: Some(Scope::Read),
        summary: "Follow events",
        description: "Server-sent events: `id`, `event` (the type) and `data` (the event as it is listed). \
            Without `Last-Event-ID` and `after` it begins with what comes from now on. A comment \
            every 15 s shows that it lives; it ends after an hour, or with the server, and a client \
            comes back by itself.",
        query: &["after", "type"],
        body: None,
        answers: &[ok("The stream.", Shape::Text("text/event-stream"))],
        refuses: &[(410, "There is no event by the id to go on after, or not any more.")],
    },
    Operation {
        method: "get",
        path: "/v1/events/{id}",
        id: "showEvent",
        tag: "Events",
        scope: Some(Scope::Read),
        summary: "Show an event",
        description: "",
        query: &[],
        body: None,
        answers: &[ok("The event.", Shape::One("Event"))],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/v1/deliveries",
        id: "listDeliveries",
        tag: "Deliveries",
        scope: Some(Scope::Read),
        summary: "List deliveries",
        description: "Newest first, without their attempts.",
        query: &["limit", "cursor", "status", "watchId", "destinationId", "since", "until"],
        body: None,
        answers: &[ok("A page.", Shape::Page("Delivery"))],
        refuses: &[],
    },
    Operation {
        method: "post",
        path: "/v1/deliveries/retry",
        id: "retryDeliveries",
        tag: "Deliveries",
        scope: Some(Scope::Write),
        summary: "Try many failed deliveries again",
        description: "One attempt each, with the same `webhook-id`; if it fails, the delivery is as before. \
            Those whose watch was stopped are left out. At most 100,000 at once.",
        query: &[],
        body: Some(Body {
            schema: "Retry",
            optional: false,
            example: r#"{"status": "failed", "since": "2026-02-18T00:00:00Z"}"#,
        }),
        answers: &[Answer {
            status: 202,
            description: "So many are on disk to be tried.",
            headers: &[],
            shape: Shape::Fields(&[("count", "integer")]),
        }],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/v1/deliveries/{id}",
        id: "showDelivery",
        tag: "Deliveries",
        scope: Some(Scope::Read),
        summary: "Show a delivery",
        description: "With its attempts, oldest first.",
        query: &[],
        body: None,
        answers: &[ok("The delivery.", Shape::One("Delivery"))],
        refuses: &[],
    },
    Operation {
        method: "post",
        path: "/v1/deliveries/{id}/retry",
        id: "retryDelivery",
        tag: "Deliveries",
        scope: Some(Scope::Write),
        summary: "Try a delivery now",
        description: "What is pending keeps its schedule; what has ended gets one attempt, and if that fails \
            its status is as before.",
        query: &[],
        body: None,
        answers: &[Answer {
            status: 202,
            description: "It is on disk that it is tried.",
            headers: &[],
            shape: Shape::One("Delivery"),
        }],
        refuses: &[(
            409,
            "Its watch was stopped, or a request with this Idempotency-Key is still under way.",
        )],
    },
    Operation {
        method: "get",
        path: "/v1/providers",
        id: "listProviders",
        tag: "Providers",
        scope: Some(Scope::Read),
        summary: "List providers",
        description: "What can be watched, how each provider is, what its budget allows, and when its jobs are \
            looked at.",
        query: &["limit", "cursor"],
        body: None,
        answers: &[ok("A page.", Shape::Page("Provider"))],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/v1/signing-secret",
        id: "showSigningSecret",
        tag: "Secrets",
        scope: Some(Scope::Admin),
        summary: "Show the app's signing secret",
        description: "",
        query: &[],
        body: None,
        answers: &[ok("The secret.", Shape::One("SigningSecret"))],
        refuses: &[],
    },
    Operation {
        method: "post",
        path: "/v1/signing-secret/rotate",
        id: "rotateSigningSecret",
        tag: "Secrets",
        scope: Some(Scope::Admin),
        summary: "Replace the app's signing secret",
        description: "Until the grace is over the new secret and the one before both sign \
            (`webhook-signature` holds two, separated by a space); one that is older still is dropped. \
            Destinations with a secret of their own are not concerned.",
        query: &[],
        body: Some(Body { schema: "Rotation", optional: true, example: r#"{"graceSeconds": 86400}"# }),
        answers: &[ok("The new secret.", Shape::One("SigningSecret"))],
        refuses: &[(409, SECRET_CONFLICT)],
    },
    Operation {
        method: "post",
        path: "/v1/apps",
        id: "createApp",
        tag: "Tenants",
        scope: Some(Scope::Admin),
        summary: "Make an app",
        description: "For admins of the first app. The answer shows its signing secret; it needs a key of \
            its own next.",
        query: &[],
        body: Some(Body { schema: "NewApp", optional: false, example: r#"{"name": "customer-7"}"# }),
        answers: &[Answer {
            status: 201,
            description: "It is on disk.",
            headers: &[("Location", "The app.")],
            shape: Shape::One("App"),
        }],
        refuses: &[(409, APP_CONFLICT)],
    },
    Operation {
        method: "get",
        path: "/v1/apps",
        id: "listApps",
        tag: "Tenants",
        scope: Some(Scope::Admin),
        summary: "List apps",
        description: "Newest first.",
        query: &["limit", "cursor"],
        body: None,
        answers: &[ok("A page.", Shape::Page("App"))],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/v1/apps/{id}",
        id: "showApp",
        tag: "Tenants",
        scope: Some(Scope::Admin),
        summary: "Show an app",
        description: "",
        query: &[],
        body: None,
        answers: &[ok("The app.", Shape::One("App"))],
        refuses: &[],
    },
    Operation {
        method: "post",
        path: "/v1/keys",
        id: "createKey",
        tag: "Tenants",
        scope: Some(Scope::Admin),
        summary: "Make a key",
        description: "The answer shows the key, once.",
        query: &[],
        body: Some(Body {
            schema: "NewKey",
            optional: false,
            example: r#"{"name": "billing", "scope": "write", "expiresIn": "90d"}"#,
        }),
        answers: &[Answer {
            status: 201,
            description: "It is on disk, and valid.",
            headers: &[("Location", "The key.")],
            shape: Shape::One("Key"),
        }],
        refuses: &[(409, KEY_CONFLICT)],
    },
    Operation {
        method: "get",
        path: "/v1/keys",
        id: "listKeys",
        tag: "Tenants",
        scope: Some(Scope::Admin),
        summary: "List keys",
        description: "Newest first, those that have expired included. The configured `api_key` is none of \
            them.",
        query: &["limit", "cursor", "appId"],
        body: None,
        answers: &[ok("A page.", Shape::Page("Key"))],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/v1/keys/{id}",
        id: "showKey",
        tag: "Tenants",
        scope: Some(Scope::Admin),
        summary: "Show a key",
        description: "",
        query: &[],
        body: None,
        answers: &[ok("The key.", Shape::One("Key"))],
        refuses: &[],
    },
    Operation {
        method: "delete",
        path: "/v1/keys/{id}",
        id: "revokeKey",
        tag: "Tenants",
        scope: Some(Scope::Admin),
        summary: "Revoke a key",
        description: "From now on it is refused; what is in flight is finished. The key that asks may revoke \
            itself.",
        query: &[],
        body: None,
        answers: &[Answer {
            status: 204,
            description: "It is refused from now on.",
            headers: &[],
            shape: Shape::Nothing,
        }],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/healthz",
        id: "alive",
        tag: "Service",
        scope: None,
        summary: "Whether it is alive",
        description: "",
        query: &[],
        body: None,
        answers: &[ok("It is.", Shape::Fields(&[("status", "string")]))],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/readyz",
        id: "ready",
        tag: "Service",
        scope: None,
        summary: "Whether it is able to serve",
        description: "The database answers and takes writes, the plans are made, and the server is not about \
            to end.",
        query: &[],
        body: None,
        answers: &[ok("It is.", Shape::Fields(&[("status", "string")]))],
        refuses: &[(503, "It is not; why, says the problem.")],
    },
    Operation {
        method: "get",
        path: "/metrics",
        id: "metrics",
        tag: "Service",
        scope: None,
        summary: "What is counted and measured",
        description: "In Prometheus's text format. Where `metrics_listen` is set it is there, and not here.",
        query: &[],
        body: None,
        answers: &[ok("The metrics.", Shape::Text("text/plain"))],
        refuses: &[(404, "They are on a listener of their own.")],
    },
    Operation {
        method: "get",
        path: "/openapi.json",
        id: "openapi",
        tag: "Service",
        scope: None,
        summary: "This document",
        description: "",
        query: &[],
        body: None,
        answers: &[ok("OpenAPI 3.1.", Shape::Any)],
        refuses: &[],
    },
    Operation {
        method: "get",
        path: "/docs",
        id: "docs",
        tag: "Service",
        scope: None,
        summary: "This document, for people",
        description: "",
        query: &[],
        body: None,
        answers: &[ok("A page.", Shape::Text("text/html"))],
        refuses: &[],
    },
];
