//! URLs in a file: one on each line, or a sitemap (sitemaps.org), in whatever encoding it comes.

use std::io::Read;

use quick_xml::events::Event;

/// A list longer than this is a mistake, packed or not.
const MAX_LIST: u64 = 512 << 20;

/// A URL and the line that it is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub number: usize,
    pub url: String,
}

/// What a file has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UrlList {
    Pages(Vec<Line>),
    /// Where other sitemaps are: an index.
    Sitemaps(Vec<Line>),
}

impl UrlList {
    pub(super) fn read(bytes: Vec<u8>) -> Result<Self, String> {
        let text = decode(unpack(bytes)?)?;
        match text.trim_start().starts_with('<') {
            true => sitemap(&text),
            false => {
                let lines = (1..).zip(text.lines().map(str::trim));
                let urls = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
                Ok(UrlList::Pages(urls.map(|(number, line)| Line { number, url: encoded(line) }).collect()))
            }
        }
    }
}

/// Reads at most what a list may have.
pub(super) fn read_bounded(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_LIST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_LIST {
        return Err(std::io::Error::other(format!("it has more than {} MiB", MAX_LIST >> 20)));
    }
    Ok(bytes)
}

/// Sitemaps are often packed by gzip.
fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    if !bytes.starts_with(b"\x1f\x8b") {
        return Ok(bytes);
    }
    read_bounded(flate2::read::MultiGzDecoder::new(&bytes[..]))
        .map_err(|error| format!("it cannot be unpacked: {error}"))
}

/// By its byte order mark, else by what XML says of itself, else UTF-8.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let declared = || {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let declaration = head.trim_start().strip_prefix("<?xml")?.split_once("?>")?.0.to_owned();
        let value = declaration.split_once("encoding")?.1.trim_start_matches([' ', '=']).to_owned();
        let label = value.trim_start_matches(['"', '\'']).split(['"', '\'']).next()?.to_owned();
        encoding_rs::Encoding::for_label(label.as_bytes())
    };
    let (encoding, mark) = encoding_rs::Encoding::for_bom(&bytes)
        .or_else(|| declared().map(|encoding| (encoding, 0)))
        .unwrap_or((encoding_rs::UTF_8, 0));
    let (text, malformed) = encoding.decode_without_bom_handling(&bytes[mark..]);
    match malformed {
        true => Err(format!("it is no {} as it says, or has bytes that are none", encoding.name())),
        false => Ok(text.into_owned()),
    }
}

/// A URL as requests have it (RFC 3987 section 3.1): what is not ASCII is encoded; a host stays as it is.
fn encoded(url: &str) -> String {
    let path = url.find("://").map_or(0, |at| at + 3);
    let path = url[path..].find(['/', '?']).map_or(url.len(), |at| at + path);
    let (host, rest) = url.split_at(path);
    let rest = rest.split('#').next().unwrap_or_default(); // no request has a fragment
    let encode = |byte: u8| if byte.is_ascii() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    host.to_owned() + &rest.bytes().map(encode).collect::<String>()
}

fn sitemap(text: &str) -> Result<UrlList, String> {
    let invalid =
        |number: usize, error: &dyn std::fmt::Display| format!("line {number}: the sitemap is not valid XML: {error}");
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut urls, mut current, mut open) = (Vec::new(), None::<String>, Vec::<(String, String)>::new());
    let (mut number, mut counted) = (1, 0);
    loop {
        let event = reader.read_event().map_err(|error| invalid(number, &error))?;
        let position = reader.buffer_position() as usize;
        number += text[counted..position].matches('\n').count();
        counted = position;
        match event {
            Event::Start(tag) => {
                let name = tag.name().as_ref().to_owned();
                let (prefix, local) = name.split_once(':').unwrap_or(("", &name));
                // A page is in <url>, a sitemap in <sitemap>, and of the same namespace: `image:loc` is neither.
                let is_entry = |(of, parent): &(String, String)| of == prefix && matches!(&**parent, "url" | "sitemap");
                if local == "loc" && open.last().is_some_and(is_entry) {
                    current = Some(String::new());
                }
                open.push((prefix.to_owned(), local.to_owned()));
            }
            Event::Text(piece) => current.iter_mut().for_each(|url| url.push_str(&piece)),
            Event::CData(piece) => current.iter_mut().for_each(|url| url.push_str(&piece)),
            Event::GeneralRef(reference) => {
                if let Some(url) = &mut current {
                    let name: &str = &reference;
                    let character = match quick_xml::escape::resolve_predefined_entity(name) {
                        Some(text) => text.to_owned(),
                        None => {
                            let resolved = reference.resolve_char_ref().map_err(|error| invalid(number, &error))?;
                            let unknown = || invalid(number, &format!("unknown entity &{name};"));
                            resolved.map(String::from).ok_or_else(unknown)?
                        }
                    };
                    url.push_str(&character);
                }
            }
            Event::End(_) => {
                open.pop();
                let url = current.take().map(|url| encoded(url.trim())).filter(|url| !url.is_empty());
                let of = open.last().map(|(_, name)| name == "sitemap");
                urls.extend(url.map(|url| (of == Some(true), Line { number, url })));
            }
            Event::Eof if !open.is_empty() => {
                let (_, name) = open.pop().unwrap_or_default();
                return Err(format!("the sitemap ends in the middle of <{name}>: it is cut off"));
            }
            Event::Eof => break,
            _ => {}
        }
    }
    let is_index = urls.iter().any(|(is_sitemap, _)| *is_sitemap);
    let lines = urls.into_iter().map(|(_, line)| line).collect();
    Ok(if is_index { UrlList::Sitemaps(lines) } else { UrlList::Pages(lines) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize, url: &str) -> Line {
        Line { number, url: url.to_owned() }
    }

    fn pages(lines: &[(usize, &str)]) -> UrlList {
        UrlList::Pages(lines.iter().map(|(number, url)| line(*number, url)).collect())
    }

    fn read(text: impl AsRef<[u8]>) -> Result<UrlList, String> {
        UrlList::read(text.as_ref().to_vec())
    }

    #[test]
    fn lists_have_a_url_on_each_line() {
        let list = "# a list\nhttps://a.example/1\n\n  a.example/2?b=c&d  \n";
        assert_eq!(read(list).unwrap(), pages(&[(2, "https://a.example/1"), (4, "a.example/2?b=c&d")]));
        assert_eq!(read("").unwrap(), pages(&[]));
        let marked = read("\u{feff}http://a/ü?ß#x\r\nhttp://b/\r\n").unwrap();
        assert_eq!(marked, pages(&[(1, "http://a/%C3%BC?%C3%9F"), (2, "http://b/")]));
        assert!(read(b"http://a/\xff").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn sitemaps_name_pages_or_sitemaps() {
        let sitemap = "<?xml version=\"1.0\"?>\n<urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\" xmlns:image=\"i\">\
            <url><loc>https://a.example/1?b=c&amp;d=&#101;</loc><image:image><image:loc>https://a.example/i.png</image:loc></image:image></url>\
            \n\n<url><loc><![CDATA[ https://a.example/2?a&b ]]></loc></url><url><loc/></url></urlset>";
        assert_eq!(
            read(sitemap).unwrap(),
            pages(&[(2, "https://a.example/1?b=c&d=e"), (4, "https://a.example/2?a&b")])
        );
        let prefixed = "<s:urlset xmlns:s=\"x\"><s:url><s:loc>http://a/</s:loc></s:url></s:urlset>";
        assert_eq!(read(prefixed).unwrap(), pages(&[(1, "http://a/")]));
        let index = "<sitemapindex><sitemap><loc>http://a/1.xml</loc></sitemap></sitemapindex>";
        assert_eq!(read(index).unwrap(), UrlList::Sitemaps(vec![line(1, "http://a/1.xml")]));
        for (cut, why) in [
            ("<urlset><url><loc>http://a/</loc>", "ends in the middle of <url>"),
            ("<urlset><url><loc>http://a/", "ends in the middle of <loc>"),
            ("<urlset>\n<url><loc>a</urlset>", "line 2: the sitemap is not valid XML"),
            ("<urlset><url><loc>&nope;</loc></url></urlset>", "unknown entity &nope;"),
        ] {
            let error = read(cut).unwrap_err();
            assert!(error.contains(why), "{cut}: {error}");
        }
    }

    #[test]
    fn encodings_are_heeded() {
        let body = "<urlset><url><loc>http://a/é</loc></url></urlset>";
        let expected = pages(&[(1, "http://a/%C3%A9")]);
        let utf16: Vec<u8> = "\u{feff}".encode_utf16().chain(body.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(utf16).unwrap(), expected);
        let latin = format!("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>{body}");
        let latin: Vec<u8> = latin.chars().map(|character| character as u32 as u8).collect();
        assert_eq!(read(latin).unwrap(), expected);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packed, body.as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(read(&packed).unwrap(), expected);
        assert!(read(&packed[..packed.len() - 9]).unwrap_err().contains("cannot be unpacked"));
    }
}
