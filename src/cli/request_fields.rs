//! The fields and parameters of a request, each with the argument of the command line that sets it.
//!
//! The server names an invalid field by its JSON pointer, and a parameter of the query with a `?`. A user of the
//! command line has given an argument instead, so [`with_arguments`] names that. A body and a query cannot be sent
//! without the names of their arguments, so no command shows a pointer.

use super::output::Failure;

/// A field of a body, or a parameter of a query: its name, the argument that sets it, and its value if it is given.
pub type Field = (&'static str, &'static str, Option<String>);

/// Pointers to fields, with the arguments that set them.
pub(super) type Arguments = Vec<(String, String)>;

/// Pointers of fields that name an object, with the command that lists such objects.
const LISTS: &[(&str, &str)] = &[
    ("/appId", "`ringback apps list` shows all apps"),
    ("?appId", "`ringback apps list` shows all apps"),
    ("?provider", "`GET /v1/providers` lists the providers of the server"),
];

/// A JSON body, with the arguments that set its fields.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The JSON.
    pub json: String,
    arguments: Arguments,
}

impl Body {
    /// Returns an object with the texts that are given.
    pub(super) fn of_texts<const N: usize>(fields: [Field; N]) -> Self {
        let json = |text: String| serde_json::Value::from(text).to_string();
        Self::of_json(&fields.map(|(name, argument, text)| (name, argument, text.map(json))))
    }

    /// Returns an object with the values that are given. The values are JSON, and are sent byte for byte.
    pub(super) fn of_json(fields: &[Field]) -> Self {
        let given =
            fields.iter().filter_map(|(name, _, json)| Some(format!("\"{name}\":{}", json.as_ref()?)));
        let json = format!("{{{}}}", given.collect::<Vec<_>>().join(","));
        Self { json, arguments: arguments("/", fields) }
    }

    /// Returns a body that no argument has set.
    pub(super) fn fixed(json: String) -> Self {
        Self { json, arguments: Arguments::new() }
    }

    /// Adds the argument that sets a field below the others.
    pub(super) fn with_argument(mut self, pointer: String, argument: String) -> Self {
        self.arguments.push((pointer, argument));
        self
    }

    /// Names the arguments in an error of the server.
    pub(super) fn name_arguments(&self, failure: Failure) -> Failure {
        with_arguments(failure, &self.arguments)
    }
}

/// Returns the pointers of fields, with the arguments that set them.
pub(super) fn arguments(prefix: &str, fields: &[Field]) -> Arguments {
    fields.iter().map(|(name, argument, _)| (format!("{prefix}{name}"), (*argument).to_owned())).collect()
}

/// Replaces the fields at the beginning of the lines of an error by the arguments that set them.
pub(super) fn with_arguments(failure: Failure, arguments: &[(String, String)]) -> Failure {
    match failure {
        Failure::Failed(sentence) => {
            let lines = sentence.split('\n').map(|line| with_argument(line, arguments));
            Failure::Failed(lines.collect::<Vec<_>>().join("\n"))
        }
        failure @ (Failure::Usage(_) | Failure::Unavailable(_) | Failure::Ended(_) | Failure::Closed) => {
            failure
        }
    }
}

fn with_argument(line: &str, arguments: &[(String, String)]) -> String {
    let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
    let Some((pointer, detail)) = rest.split_once(": ") else { return line.to_owned() };
    let below = |field: &str| {
        let below = pointer.strip_prefix(field)?;
        (below.is_empty() || below.starts_with('/')).then_some(below)
    };
    // The argument of a field in a list was added after that of the list.
    let named = arguments.iter().rev().find_map(|(field, argument)| Some((field, argument, below(field)?)));
    let Some((field, argument, below)) = named else { return line.to_owned() };
    // The entries of a list are arguments of their own; a key of an object is named.
    let entry = below.trim_start_matches('/');
    let place = match entry.parse::<usize>() {
        Ok(index) => format!(" (number {})", index + 1),
        Err(_) if entry.is_empty() => String::new(),
        Err(_) => format!(" ({entry})"),
    };
    let list = LISTS.iter().find(|(known, _)| known == field);
    let list = list.map(|(_, list)| format!("; {list}")).unwrap_or_default();
    format!("{indent}{argument}{place}: {detail}{list}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_server_names_the_argument() {
        let fields: [Field; 4] = [
            ("jobId", "JOB_ID", None),
            ("email", "--email", None),
            ("params", "--param", None),
            ("appId", "--app", None),
        ];
        let mut arguments = arguments("/", &fields);
        arguments.push(("?since".to_owned(), "--since".to_owned()));
        arguments.push(("/notify/1/url".to_owned(), "--webhook (number 3)".to_owned()));
        for (sentence, shown) in [
            ("/email: is not a mail address", "--email: is not a mail address"),
            (
                "2 fields are invalid\n  /jobId: a: b\n  /email/1: no",
                "2 fields are invalid\n  JOB_ID: a: b\n  --email (number 2): no",
            ),
            ("/params/region: unknown", "--param (region): unknown"),
            ("/notify/0/url: is not a URL", "/notify/0/url: is not a URL"),
            ("/notify/1/url: is not a URL", "--webhook (number 3): is not a URL"),
            ("/v1/watches: no such path", "/v1/watches: no such path"),
            ("the server is /email: full", "the server is /email: full"),
            (
                "/appId: there is no such app",
                "--app: there is no such app; `ringback apps list` shows all apps",
            ),
            ("?since: must be a time", "--since: must be a time"),
        ] {
            let Failure::Failed(named) = with_arguments(Failure::Failed(sentence.to_owned()), &arguments)
            else {
                panic!("another failure");
            };
            assert_eq!(named, shown);
        }
    }

    #[test]
    fn only_given_fields_are_sent() {
        let fields = [("name", "--name", Some("a\"b".to_owned())), ("appId", "--app", None)];
        assert_eq!(Body::of_texts(fields).json, r#"{"name":"a\"b"}"#);
    }
}
