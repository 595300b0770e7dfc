//! The status page: one document that loads nothing else.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::hash::sha256;

const STYLE: &str = include_str!("page/page.css");
/// One script of several files with one scope. The last file starts it.
const SCRIPT: &str = concat!(
    include_str!("page/dom.js"),
    include_str!("page/words.js"),
    include_str!("page/colours.js"),
    include_str!("page/glance.js"),
    include_str!("page/plot.js"),
    include_str!("page/quota.js"),
    include_str!("page/sections.js"),
    include_str!("page/fleet.js"),
    include_str!("page/main.js"),
);

pub(super) static HTML: LazyLock<String> = LazyLock::new(|| {
    include_str!("page/page.html")
        .replace("{STYLE}", STYLE)
        .replace("{SCRIPT}", SCRIPT)
});

/// Allows the page's own script and style by hash, so that injected ones do not run. The icon is a data URL, because browsers
/// request a file if there is none.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        STANDARD.encode(sha256(SCRIPT.as_bytes())),
        STANDARD.encode(sha256(STYLE.as_bytes())),
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_into_the_page_as_text_alone() {
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "createContextualFragment",
            "eval(",
            "new Function",
        ] {
            assert!(!SCRIPT.contains(way), "{way}");
        }
        assert_eq!(HTML.matches("<script").count(), 1);
        assert_eq!(HTML.matches("</script").count(), 1);
        assert_eq!(HTML.matches("</style").count(), 1);
        assert!(!HTML.contains("{SCRIPT}") && !HTML.contains("{STYLE}"));
    }

    #[test]
    fn the_page_names_no_other_host() {
        for (at, _) in HTML.match_indices("://") {
            let rest = &HTML[at + 3..];
            assert!(rest.starts_with("www.w3.org/2000/svg"), "{}", &rest[..20]);
        }
    }
}
