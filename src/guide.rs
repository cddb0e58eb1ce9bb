//! The guide for users, chapter by chapter. It is part of this documentation, `qbc guide` prints it, and a node serves it
//! (`GET /guide`). The README is the way in. Every command in it that one machine can run is run by `tests/guide.rs`.

/// A chapter of the guide.
pub struct Chapter {
    /// The word by which it is asked for, such as `proofs`.
    pub topic: &'static str,
    /// Its text, in Markdown.
    pub text: &'static str,
}

impl Chapter {
    /// Its heading.
    pub fn title(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches("# ")
    }
}

/// The chapter on this topic.
pub fn chapter(topic: &str) -> Option<&'static Chapter> {
    CHAPTERS.iter().find(|chapter| chapter.topic == topic)
}

/// Makes a module of each chapter, for the documentation, and [`CHAPTERS`] of them all.
///
/// A chapter names another one as `[topic]`, and defines at its end which file that is. In Markdown the first definition counts, so
/// here the same names lead to modules.
macro_rules! chapters {
    ($($topic:ident)*) => {
        $(
            #[doc = "[access]: crate::guide::access"]
            #[doc = "[cluster]: crate::guide::cluster"]
            #[doc = "[explorer]: crate::guide::explorer"]
            #[doc = "[format]: crate::guide::format"]
            #[doc = "[interface]: crate::guide::interface"]
            #[doc = "[keys]: crate::guide::keys"]
            #[doc = "[metrics]: crate::guide::metrics"]
            #[doc = "[numbers]: crate::guide::numbers"]
            #[doc = "[operation]: crate::guide::operation"]
            #[doc = "[proofs]: crate::guide::proofs"]
            #[doc = "[security]: crate::guide::security"]
            #[doc = "[tls]: crate::guide::tls"]
            #[doc = ""]
            #[doc = include_str!(concat!("guide/", stringify!($topic), ".md"))]
            pub mod $topic {}
        )*

        /// All chapters, in the order in which they are read.
        pub const CHAPTERS: &[Chapter] = &[$(Chapter {
            topic: stringify!($topic),
            text: include_str!(concat!("guide/", stringify!($topic), ".md")),
        }),*];
    };
}

chapters! { interface format proofs explorer cluster operation access tls metrics keys security numbers }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_have_titles_and_lead_to_each_other() {
        for Chapter { topic, text } in CHAPTERS {
            assert!(text.starts_with("# ") && text.ends_with('\n'), "{topic}");
            assert_eq!(chapter(topic).unwrap().topic, *topic);
            let definitions = text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
            for (name, file) in definitions.clone() {
                assert_eq!(file, format!("{name}.md"), "{topic}");
                assert!(chapter(name).is_some(), "{topic} leads to {file}");
                assert!(text.contains(&format!("[{name}]")), "{topic} defines {name}, and never names it");
            }
            for other in CHAPTERS {
                let names = text.matches(&format!("[{}]", other.topic)).count();
                assert!(
                    names == 0 || definitions.clone().any(|(name, _)| name == other.topic),
                    "{topic}: {}",
                    other.topic
                );
            }
        }
    }
}
