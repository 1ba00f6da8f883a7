//! The body of a request: JSON or a form, with parameters in its texts.

use serde_json::{Map, Value};

use super::template::{Template, percent_encode};

/// A body with parameters.
#[derive(Clone, Debug)]
pub(super) enum BodyTemplate {
    /// JSON; the content type is `application/json`.
    Json(JsonTemplate),
    /// A form; the content type is `application/x-www-form-urlencoded`.
    Form(Vec<(String, Template)>),
    /// JSON as a client has given it.
    Given(String),
}

/// A JSON value whose texts have parameters. Names of members have none.
#[derive(Clone, Debug)]
pub(super) enum JsonTemplate {
    Text(Template),
    /// A value without parameters.
    Fixed(Value),
    List(Vec<JsonTemplate>),
    Object(Vec<(String, JsonTemplate)>),
}

impl BodyTemplate {
    /// Returns the templates of the body.
    pub(super) fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Json(json) => json.templates(),
            Self::Form(fields) => fields.iter().map(|(_, template)| template).collect(),
            Self::Given(_) => Vec::new(),
        }
    }

    /// Returns the templates that are always sent, because they are items of a list.
    pub(super) fn items(&self) -> Vec<&Template> {
        match self {
            Self::Json(json) => json.items(),
            Self::Form(_) | Self::Given(_) => Vec::new(),
        }
    }

    /// Returns the content type and the body. `credential` is added at the top. Members that are absent are left out.
    pub(super) fn render(
        &self,
        value: impl Fn(&str) -> Result<String, String>,
        is_absent: impl Fn(&Template) -> bool,
        credential: &[(String, String)],
    ) -> Result<(&'static str, Vec<u8>), String> {
        match self {
            Self::Given(text) => Ok(("application/json", text.clone().into_bytes())),
            Self::Json(json) => {
                let mut body = json.render(&value, &is_absent)?;
                if let Value::Object(members) = &mut body {
                    members
                        .extend(credential.iter().map(|(name, value)| (name.clone(), value.clone().into())));
                }
                Ok(("application/json", body.to_string().into_bytes()))
            }
            Self::Form(fields) => {
                let mut pairs = Vec::new();
                for (name, template) in fields.iter().filter(|(_, template)| !is_absent(template)) {
                    pairs.push((name.as_str(), template.render(&value)?));
                }
                pairs.extend(credential.iter().map(|(name, value)| (name.as_str(), value.clone())));
                let pair = |(name, value): &(&str, String)| {
                    format!("{}={}", percent_encode(name), percent_encode(value))
                };
                let body = pairs.iter().map(pair).collect::<Vec<_>>().join("&");
                Ok(("application/x-www-form-urlencoded", body.into_bytes()))
            }
        }
    }
}

impl JsonTemplate {
    /// Returns the templates of the texts.
    pub(super) fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Text(template) => vec![template],
            Self::Fixed(_) => Vec::new(),
            Self::List(items) => items.iter().flat_map(Self::templates).collect(),
            Self::Object(members) => members.iter().flat_map(|(_, value)| value.templates()).collect(),
        }
    }

    /// Returns the templates that are items of lists.
    fn items(&self) -> Vec<&Template> {
        match self {
            Self::Text(_) | Self::Fixed(_) => Vec::new(),
            Self::List(items) => items
                .iter()
                .flat_map(|item| if let Self::Text(template) = item { vec![template] } else { item.items() })
                .collect(),
            Self::Object(members) => members.iter().flat_map(|(_, value)| value.items()).collect(),
        }
    }

    /// Returns the value with each parameter replaced by its value, without the members that are absent.
    pub(super) fn render(
        &self,
        value: &impl Fn(&str) -> Result<String, String>,
        is_absent: &impl Fn(&Template) -> bool,
    ) -> Result<Value, String> {
        Ok(match self {
            Self::Text(template) => Value::String(template.render(value)?),
            Self::Fixed(fixed) => fixed.clone(),
            Self::List(items) => {
                let items = items.iter().map(|item| item.render(value, is_absent));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Object(members) => {
                let is_sent = |one: &Self| !matches!(one, Self::Text(template) if is_absent(template));
                let member = |(name, one): &(String, Self)| Ok((name.clone(), one.render(value, is_absent)?));
                let members = members.iter().filter(|(_, one)| is_sent(one)).map(member);
                Value::Object(members.collect::<Result<Map<_, _>, String>>()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    #[test]
    fn a_value_cannot_change_the_structure_of_a_body() {
        let value = |_: &str| Ok(r#"a", "x": "b&c=d"#.to_owned());
        let ids = JsonTemplate::List(vec![JsonTemplate::Text(text("{id}")), JsonTemplate::Fixed(5.into())]);
        let json = BodyTemplate::Json(JsonTemplate::Object(vec![("ids".to_owned(), ids)]));
        let key = [("key".to_owned(), "k".to_owned())];
        let (kind, body) = json.render(value, |_| false, &key).unwrap();
        assert_eq!(kind, "application/json");
        assert_eq!(String::from_utf8(body).unwrap(), r#"{"ids":["a\", \"x\": \"b&c=d",5],"key":"k"}"#);
        let form = BodyTemplate::Form(vec![("id".to_owned(), text("{id}"))]);
        let (_, body) = form.render(value, |_| false, &key).unwrap();
        assert_eq!(String::from_utf8(body).unwrap(), "id=a%22%2C%20%22x%22%3A%20%22b%26c%3Dd&key=k");
    }
}
