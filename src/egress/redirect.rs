//! Redirects to the same scheme, host and port. No others are followed: they could send a credential elsewhere, or lead
//! to an address that nothing has checked.

use reqwest::Method;
use url::Url;

/// Returns where a response redirects to, if it stays at the same scheme, host and port, and whether the method and the
/// body are kept.
pub fn redirect_target(from: &Url, method: &Method, status: u16, location: &str) -> Option<(Url, bool)> {
    let keeps_body = match status {
        // Browsers change the method, and servers rely on it.
        301 | 302 => *method == Method::GET,
        303 => false,
        307 | 308 => true,
        _ => return None,
    };
    let mut url = from.join(location).ok()?;
    url.set_fragment(None);
    let is_same = url.origin() == from.origin() && url.username().is_empty() && url.password().is_none();
    is_same.then_some((url, keeps_body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_redirects_to_the_same_origin_are_followed() {
        let from = Url::parse("https://api.example/v1/jobs/1?key=x").expect("a URL");
        for (status, method, location, expected) in [
            (303, Method::POST, "/v1/results/1", Some(("https://api.example/v1/results/1", false))),
            (302, Method::GET, "2", Some(("https://api.example/v1/jobs/2", true))),
            (302, Method::POST, "2", Some(("https://api.example/v1/jobs/2", false))),
            (307, Method::POST, "https://api.example:443/x#y", Some(("https://api.example/x", true))),
            (308, Method::GET, "//api.example/x", Some(("https://api.example/x", true))),
            (307, Method::GET, "http://api.example/x", None),
            (307, Method::GET, "https://api.example:8443/x", None),
            (307, Method::GET, "https://cdn.example/x", None),
            (307, Method::GET, "https://me@api.example/x", None),
            (307, Method::GET, "//evil.example/x", None),
            (304, Method::GET, "/x", None),
            (200, Method::GET, "/x", None),
        ] {
            let found = redirect_target(&from, &method, status, location);
            let found = found.as_ref().map(|(url, keeps)| (url.as_str(), *keeps));
            assert_eq!(found, expected, "{status} {location}");
        }
    }
}
