//! What may be shown of a URL that somebody configured.

/// `url` with `***` in place of its passwords: the one before the host, and what its query calls a password, a token or a
/// secret. A text that is no URL stays as it is.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    let end = place.find('/').unwrap_or(place.len());
    let (authority, path) = place.split_at(end);
    let shown = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:***@{host}{path}"),
            None => format!("{scheme}://{authority}{path}"),
        },
        None => format!("{scheme}://{authority}{path}"),
    };
    match query {
        None => shown,
        Some(query) => {
            format!("{shown}?{}", query.split('&').map(without_secret).collect::<Vec<_>>().join("&"))
        }
    }
}

fn without_secret(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}=***"),
        _ => parameter.to_owned(),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["password", "token", "secret"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_left_out_and_the_rest_stays() {
        let cases = [
            ("postgres://me:hunter2@db:5432/ossia", "postgres://me:***@db:5432/ossia"),
            ("postgres://me:hun@ter2@db/ossia", "postgres://me:***@db/ossia"),
            ("postgres://me:hunter2@db", "postgres://me:***@db"),
            ("postgres://me@db/a@b:c", "postgres://me@db/a@b:c"),
            (
                "postgres:///ossia?host=/run&user=me&password=hunter2",
                "postgres:///ossia?host=/run&user=me&password=***",
            ),
            ("https://h/keys?Access_Token=x&b=1", "https://h/keys?Access_Token=***&b=1"),
            ("https://h:8443/keys", "https://h:8443/keys"),
            ("/etc/ossia/jwks.json", "/etc/ossia/jwks.json"),
            ("sqlite:a:b@c", "sqlite:a:b@c"),
        ];
        for (url, expected) in cases {
            assert_eq!(without_password(url), expected);
        }
    }
}
