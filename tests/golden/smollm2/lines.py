"""Makes lines.jsonl: 1,000 lines of text that are hard on a tokenizer.

A line is one JSON object {"text": ...}. The lines are prose, code, forty scripts, combining marks, emoji, odd
whitespace, digits, contractions, addresses, special tokens, and random code points. They come from the material in
this file and a seed, so running it again gives the same bytes. What the ids of these lines must be is not decided
here: make.py asks llama.cpp (ids.jsonl).

    python lines.py            writes lines.jsonl beside this file
"""

import json
import random
import unicodedata
from pathlib import Path

HERE = Path(__file__).parent
SEED = 20250
CONTROL = [  # the vocabulary's control tokens, ids 0 to 16 in this order
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>",
    "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>",
    "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>",
]

# ---------------------------------------------------------------------------------------------------- prose

SUBJECTS = (
    "The old lighthouse keeper|A tired postal worker|My neighbour's three-legged dog|The committee|Nobody in the village|"
    "An astronomer from Leiden|The second violin|Every gardener I know|The night train|Her youngest sister|A flock of starlings|"
    "The bakery on the corner|The river|A mathematician|The last passenger|Our teacher|The frost|A stubborn mule"
).split("|")
VERBS = (
    "remembered|misplaced|was counting|refused to discuss|had quietly repaired|could not understand|photographed|sold|"
    "kept returning to|measured|painted over|listened for|drew a map of|argued about|forgot|slowly circled"
).split("|")
OBJECTS = (
    "the broken clock|a crate of oranges|the long winter of 1963|half a dozen letters|the smell of wet stone|"
    "the bridge below the mill|an unfinished sonata|the price of copper|seventeen brass keys|the shadow of the tower|"
    "a recipe for plum jam|the sound of the tide|the colour of the roof|some very small mistakes|the empty orchard"
).split("|")
TAILS = (
    ".|, as if it mattered.|; then it rained.| – and said so.| (twice).|, which surprised everyone?|! What a day.|…|"
    " until the lamps went out.|, although the harvest wasn't in yet.|: \"too late,\" they said.| before breakfast."
).split("|")
SENTENCES = [
    "Bread rises because yeast turns sugar into gas, and the gluten holds the bubbles in place.",
    "She said, “I’ll be there at five,” but the café had already closed.",
    "Photosynthesis converts light, water and carbon dioxide into glucose and oxygen.",
    "To be precise: the meeting is on Tuesday, not Thursday; bring the blue folder.",
    "A sonnet has fourteen lines. A haiku has seventeen syllables. A limerick has no shame.",
    "Once upon a time there was a fox who could not lie, and nobody would play cards with him.",
    "Antidisestablishmentarianism, floccinaucinihilipilification and pneumonoultramicroscopicsilicovolcanoconiosis.",
    "In 1905 he published four papers; any one of them would have made him famous.",
    "WARNING: DO NOT OPEN THE HATCH WHILE THE TURBINE IS SPINNING!!!",
    "the quick brown fox jumps over the lazy dog THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "camelCaseWords, snake_case_words, kebab-case-words, SCREAMING_SNAKE and Title Case.",
    "It was the kind of silence that follows a joke no one has understood.",
    "Stir the onions for ten minutes, add the garlic, then pour in the stock—slowly.",
    "Q: What is the capital of Australia?\nA: Canberra.\n\nQ: And of Kazakhstan?\nA: Astana.",
    "Chapter 7\n\nThe storm came in from the west.\n\n\"Reef the mainsail!\" shouted the mate.",
    "1. Preheat the oven.\n2. Butter the tin.\n3. Fold in the flour.\n   - do not overmix\n   - taste it",
    "| metal | symbol | density |\n|---|---|---|\n| gold | Au | 19.3 |\n| lead | Pb | 11.3 |",
    "# Heading\n\n> a quotation\n\n* item one\n* item two\n\n`inline code` and **bold** and _italic_.",
    "Dear Sir or Madam,\n\nI write to complain about the pigeons.\n\nYours faithfully,\nA. Person",
    "…and so on, and so on — etc. etc., i.e. forever, e.g. until Monday.",
]


def prose(rng):
    yield from SENTENCES
    while True:
        count = rng.choice([1, 1, 1, 2, 2, 3])
        yield " ".join(f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}{rng.choice(TAILS)}" for _ in range(count))


# ----------------------------------------------------------------------------------------------------- code

SNIPPETS = [
    "def NAME(x, y=NUM):\n    \"\"\"Return x*y.\"\"\"\n    return [x ** i for i in range(y) if i % 2 == 0]\n",
    "for (int i = 0; i < NUM; ++i) {\n\tNAME[i] += buf[i] << 3;\n}\n",
    "fn NAME<'a, T: Copy>(xs: &'a [T]) -> Option<&'a T> {\n    xs.iter().rev().nth(NUM)\n}",
    "const NAME = async (url) => { const r = await fetch(`${url}?id=NUM`); return r?.ok ?? false; };",
    "SELECT NAME, COUNT(*) FROM orders WHERE total >= NUM.50 GROUP BY NAME ORDER BY 2 DESC;",
    "#!/bin/sh\nset -eu\nfor f in *.txt; do\n  [ -s \"$f\" ] || rm -f -- \"$f\"   # NAME\ndone | head -n NUM",
    "<div class=\"NAME\" data-id='NUM'><p>&lt;hello&gt; &amp; goodbye</p><br/></div>",
    "{\"NAME\": [NUM, -1.5e-10, null, true], \"nested\": {\"k\": \"v\\n\\u00e9\"}}",
    "NAME:\n  - id: NUM\n    tags: [a, b]\n    text: |\n      two\n      lines\n",
    "\\begin{align}\n  \\nabla \\times \\mathbf{E} &= -\\frac{\\partial B}{\\partial t} \\\\\n  x_{NUM} &\\leq \\sum_{i=1}^n \\alpha_i\n\\end{align}",
    "--- a/NAME.rs\n+++ b/NAME.rs\n@@ -1,NUM +1,7 @@\n-let x = 1;\n+let x: u32 = 0x1F_u32;\n",
    "template<typename T> struct NAME { static constexpr size_t value = sizeof(T) * NUM; };",
    "import numpy as np\nNAME = np.einsum('bij,bjk->bik', a, b)[..., :NUM]  # shape: [B, I, K]",
    "public static void NAME(String[] args) throws IOException { System.out.println(\"NUM\\t\" + args.length); }",
    "if err := NAME(ctx, NUM); err != nil {\n\treturn fmt.Errorf(\"NAME: %w\", err)\n}",
    "#define NAME(x) do { if ((x) != NUM) abort(); } while (0)\n",
    "mov eax, dword ptr [rbp-0xNUM]\nxor ecx, ecx\njne .NAME",
    "^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+|\\\"NAME\\\"){NUM}$",
    "(define (NAME n) (if (< n NUM) 1 (* n (NAME (- n 1)))))",
    "main = mapM_ print $ takeWhile (<NUM) . filter odd . map (^2) $ [1..] -- NAME",
    "        deeply\n                indented\n                        NAME = NUM;\n                }\n        }\n}\n",
    "[package]\nname = \"NAME\"\nversion = \"0.NUM.0\"\nedition = \"2024\"\n\n[dependencies]\n",
    "curl -sSL -H 'Accept: */*' \"http://localhost:NUM/NAME?x=%20y&z[]=1\" | jq '.[] | {a: .b}'",
    "x = ~(a & b) | (c ^ d) >>> NUM; y = a&&b||!c; z = p->q::r<s>; // NAME\r\n",
]
NAMES = "count total_sum parseHTTPHeader kMaxSize _private __init__ x1 naïve_größe tokenize2 IOBuffer is_ok update_weights".split()


def code(rng):
    while True:
        for snippet in SNIPPETS:
            yield snippet.replace("NAME", rng.choice(NAMES)).replace("NUM", str(rng.choice([0, 1, 2, 7, 10, 42, 64, 255, 1024, 65535])))


# -------------------------------------------------------------------------------------------------- scripts

SCRIPTS = [
    "Grüße aus Köln: Die Straße über den Fluß ist gesperrt, sagte der Bürgermeister.", "Où est l’œuvre complète ? Ça dépend, naïvement.",
    "El niño comió jalapeños en el pingüinario; ¿verdad? ¡Sí!", "Não há pão às três da manhã, só à tarde.", "Zażółć gęślą jaźń, mówił źrebak.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.", "Árvíztűrő tükörfúrógép, és a őszibarack.", "Șoseaua aceasta este închisă, țineți dreapta.",
    "İstanbul'da ığdır ağacı gölgesinde çay içtik.", "Það er kalt á Íslandi, sagði Æsa ömmu sinni.", "Smørrebrød på Ærø; blåbær og rødgrød.",
    "Tiếng Việt có nhiều dấu: một, hai, ba, bốn, năm, sáu, bảy.", "Ṣé dáadáa ni o wà? Ẹ kú àárọ̀ o.", "Kei te pēhea koe? Kei te ora ahau, ngā mihi.",
    "Съешь ещё этих мягких французских булок, да выпей чаю.", "Їжак з'їв ґудзик, а потім є що є.", "Љубазни фењерџија чађавог лица.",
    "Сайн байна уу? Өнөөдөр үүлэрхэг.", "Η γρήγορη αλεπού πηδά πάνω από τον σκύλο· τι ωραία;", "ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος ἦν πρὸς τὸν θεόν",
    "Բարև ձեզ, ինչպե՞ս եք։ Շնորհակալություն։", "გამარჯობა, როგორ ხარ? მადლობა, კარგად.", "שלום עולם, מה שלומך היום? הַשָּׁמַיִם כְּחֻלִּים",
    "مرحبا بالعالم، كيف حالك اليوم؟ الكِتَابُ عَلَى الطَّاوِلَةِ", "سلام دنیا، می‌خواهم کتاب‌ها را بخوانم؛ چطوری؟", "آپ کیسے ہیں؟ میں ٹھیک ہوں، شکریہ۔",
    "नमस्ते दुनिया, आप कैसे हैं? मैं ठीक हूँ। क्षत्रिय ज्ञान", "আমি বাংলায় গান গাই। তুমি কেমন আছ?", "ਸਤ ਸ੍ਰੀ ਅਕਾਲ, ਤੁਸੀਂ ਕਿਵੇਂ ਹੋ?", "નમસ્તે, તમે કેમ છો? પાણી ઠંડું છે.",
    "வணக்கம் உலகம், எப்படி இருக்கிறீர்கள்?", "నమస్కారం ప్రపంచం, మీరు ఎలా ఉన్నారు?", "ನಮಸ್ಕಾರ ಜಗತ್ತು, ಹೇಗಿದ್ದೀರಿ?", "നമസ്കാരം ലോകമേ, സുഖമാണോ?",
    "ආයුබෝවන් ලෝකය, ඔබට කොහොමද?", "สวัสดีชาวโลก วันนี้อากาศดีมาก ๆ ครับ", "ສະບາຍດີ ໂລກ, ເຈົ້າສະບາຍດີບໍ?", "မင်္ဂလာပါ ကမ္ဘာ၊ နေကောင်းလား။",
    "ជំរាបសួរ ពិភពលោក តើអ្នកសុខសប្បាយទេ?", "བཀྲ་ཤིས་བདེ་ལེགས། ཁྱེད་རང་བདེ་པོ་ཡིན་པས།", "ሰላም ለዓለም፣ እንዴት ነህ? እግዚአብሔር ይመስገን።", "ᎣᏏᏲ ᎡᎶᎯ, ᏙᎯᏧ?",
    "ᐊᐃᓐᖓᐃ ᓯᓚᕐᔪᐊᖅ", "ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ", "ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ", "你好，世界！今天天气很好，我们去公园吧。", "繁體中文：圖書館裡有三千本書。", "我有3只猫和2条狗，共5只。",
    "こんにちは世界。今日はとても寒いですね？", "カタカナとひらがなと漢字、ｶﾀｶﾅも混ぜて書く。", "안녕하세요 세계! 오늘은 날씨가 좋습니다.", "한글 자모: ㄱㄴㄷ ㅏㅑㅓ 각",
    "ꦲꦏ꧀ꦱꦫꦗꦮ", "ⵜⴰⵎⴰⵣⵉⵖⵜ", "ߒߞߏ ߞߊ߲", "𐍅𐌿𐌻𐍆𐌹𐌻𐌰 𐌰𐍄𐍄𐌰 𐌿𐌽𐍃𐌰𐍂", "𒀭𒂗𒆤 𒈗", "𓀀𓁐𓃾 𓆣", "𠮷野家で𩸽を食べた。", "〇一二三四五六七八九十百千万",
    "Mixed: English и русский и 中文 and العربية together in one line.", "price：￥１２３４　（税込）", "Ἑλλάς/Россия/日本/한국", "Ω≈ç√∫˜µ≤≥÷ åß∂ƒ©˙∆˚¬…æ",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β ⇒ γ ∨ δ, ∑∏∫∮", "𝒜𝓃 𝕆𝕕𝕕 𝔉𝔬𝔫𝔱 𝚖𝚒𝚡 ｆｕｌｌｗｉｄｔｈ", "†‡•‰′″‹›«»„“”‚‘’–—―‖‗", "€£¥₹₽₿¢ 5€ £3 ¥100", "♔♕♖♗♘♙ ♪♫ ☀☂☃ ★☆ ✓✗", "┌─┬─┐\n│ │ │\n└─┴─┘ ░▒▓█",
]


def scripts(rng):
    yield from SCRIPTS
    while True:
        first, second = rng.sample(SCRIPTS, 2)
        kind = rng.randrange(4)
        if kind == 0:
            yield first.upper() if rng.random() < 0.5 else first.lower()
        elif kind == 1:
            yield first.split()[0] + rng.choice(["", " ", "-", "/", "1", ", "]) + second.split()[-1]
        elif kind == 2:
            words = first.split() + second.split()
            rng.shuffle(words)
            yield " ".join(words[:8])
        else:
            yield rng.choice(SUBJECTS) + " " + rng.choice(VERBS) + " " + first.split()[-1] + rng.choice(TAILS)


# -------------------------------------------------------------------------------- combining and zero width

MARKS = "\u0300\u0301\u0302\u0303\u0308\u030a\u0327\u0328\u0331\u0338\u0345\u0483\u05b0\u064b\u0651\u093c\u0e31\u20d7\u20dd\ufe20"
ZERO_WIDTH = "\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u202e\u2060\u2066\u2069\ufeff\u00ad\u034f\u061c\u180e"


def combining(rng):
    yield from [
        "e\u0301 é E\u0301 É", "n\u0303 ñ", "A\u030a Å \u212b", "\u1100\u1161\u11a8 각 가\u11a8", "ﬁ ﬂ ﬀ ﬃ ﬅ", "\u0301 leading mark", " \u0301", "a \u0301b",
        "Z\u0351\u036b\u0343a\u0323\u0348l\u0334\u0322g\u035e\u0321o\u0489", "x\u20d7·y\u20d7", "I\u0307 i\u0307 ı İ", "ß ẞ SS ſ", "Å\u0327\u0323", "क\u094d\u200dष क\u094d\u200cष",
        "no\u00adhy\u00adphen", "\ufeffbyte order mark", "end\ufeff", "a\u200bb\u200bc", "\u202eright to left\u202c done", "\u2066isolate\u2069 שלום", "\u200b", "\u200d\u200d",
    ]
    while True:
        word = rng.choice("cafe resume hotel naive kitchen straw umbrella Zurich motor data שלום мир कमल".split())
        kind = rng.randrange(4)
        if kind == 0:
            yield "".join(c + "".join(rng.choices(MARKS, k=rng.randrange(3))) for c in word)
        elif kind == 1:
            yield "".join(c + (rng.choice(ZERO_WIDTH) if rng.random() < 0.4 else "") for c in word + " and " + word)
        elif kind == 2:
            yield unicodedata.normalize("NFD", rng.choice(SCRIPTS[:31]))
        else:
            yield unicodedata.normalize(rng.choice(["NFKC", "NFKD"]), rng.choice(SCRIPTS[60:]))


# ---------------------------------------------------------------------------------------------------- emoji

EMOJI = (
    "😀 😂 🤣 🥲 😎 🤖 👻 💩 🐙 🦊 🐢 🌵 🍕 🍩 🚀 🛸 ⚽ 🎻 🏆 🔥 ✨ ❤️ ❤ 💙 👍 👍🏽 👋🏿 🤝🏻 🧑🏽‍🚀 👩‍💻 👨‍👩‍👧‍👦 👩🏻‍❤️‍💋‍👨🏿 🏳️‍🌈 🏴‍☠️ 🐕‍🦺 🐻‍❄️ 🧜🏾‍♀️ 👁️‍🗨️ "
    "🇩🇪 🇯🇵 🇧🇷 🇿🇦 🇺🇳 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏴󠁧󠁢󠁳󠁣󠁴󠁿 1️⃣ #️⃣ *️⃣ 🔟 ©️ ™ ☎️ ☎︎ ♾️ ⏰ ⌛ 🀄 🃏 🅰️ 🈚 🪐 🫠 🫶 🦾 ☕ ⭐ ✅ ➡️ ↔️ 〰️ 🗺️"
).split(" ")


def emoji(rng):
    yield from EMOJI[:58]
    while True:
        kind = rng.randrange(4)
        if kind == 0:
            yield "".join(rng.choices(EMOJI, k=rng.randrange(2, 8)))
        elif kind == 1:
            yield " ".join(rng.choices(EMOJI, k=rng.randrange(2, 5)))
        elif kind == 2:
            yield f"{rng.choice(SUBJECTS)} {rng.choice(EMOJI)} {rng.choice(VERBS)}{rng.choice(EMOJI)} {rng.choice(OBJECTS)}!{rng.choice(EMOJI)}"
        else:
            yield "".join(chr(0x1F1E6 + rng.randrange(26)) for _ in range(rng.randrange(1, 7)))


# ----------------------------------------------------------------------------------------------- whitespace

SPACES = [" ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\x0b", "\x0c", "\u1680", "\u202f", "\u205f", " \t ", "\n\n\n\n", "        "]


def whitespace(rng):
    yield from [
        "", " ", "  ", "   ", "    ", " " * 16, " " * 33, "\t", "\n", "\n\n\n", "\r\n", "\r\n\r\n", " a", "  a", "   a", "a ", "a  ", "a   ", " a ", "\ta", "a\t", "\n a", " \na", "a\n", "a\n ",
        "a \n b", "a\r\nb\r\n", "a\rb", "a\u00a0b", "\u00a0a", " \u00a0a", "a\u3000b", "\u2028", "a\u2028b\u2029c", "a\u0085b", "\x0b\x0c", "a\x0bb", "a \x0c b", "x\u200a y", "  .", " . ", "!  !", "\t\t.", "1 2  3", " 1", "  1",
        "'s", " 's", "  's", "a\n\n\n'll", "name\tvalue\tunit\n", "\x00", "a\x00b", "\x01\x02\x03", "\x04\x06\x13\x14\x16\x1d", "a\x04b", " \x16 ", "\x1b[31mred\x1b[0m", "\x7f\x80\x9f", "a\x1cb\x1ec", "ok\x1d", "\U00040000", "a\U00080000b", "\ufffd\uffff", "\ue000\U000f0000\U0010ffff",
    ]
    while True:
        words = rng.sample("apple, The 42 x= if ( ) é 中 don't 😀 -- end. \"".split(), k=rng.randrange(2, 6))
        yield "".join(rng.choice(SPACES) + word for word in words) + (rng.choice(SPACES) if rng.random() < 0.5 else "")


# ------------------------------------------------------------------------- digits, contractions, addresses

def digits(rng):
    yield from [
        "0", "12", "123", "1234567890", "3.14159265358979", "1,000,000.00", "-273.15°C", "+49 (0)30 1234-5678", "2024-02-29T23:59:60Z", "12:34:56.789", "0x1F", "0b1010", "1e-6", "6.022×10²³", "½ ¾ ⅓",
        "x² y³ z₁₂", "Ⅳ Ⅻ ⅷ", "①②③⑩", "٠١٢٣٤٥٦٧٨٩", "१२३४५", "１２３４５", "一二三", "𝟘𝟙𝟚", "৳৫০০", "๑๒๓", "v1.2.3-rc4", "192.168.0.1", "a1b2c3", "1a", " 1 2 3", "100%", "$5.00", "#42", "No.7", "1st 2nd 3rd", "50/50", "7:00pm", "00000", "1 000 000", "١٢:٣٠",
    ]
    while True:
        number = str(rng.randrange(10 ** rng.randrange(1, 12)))
        yield rng.choice(["", " ", "$", "x", "-", "≈ ", "id=", "٪"]) + number + rng.choice(["", "kg", " km", "%", ".5", "th", ",", "€", "\n", "²"]) + rng.choice(["", " of " + number[::-1]])


def contractions(rng):
    yield from [
        "I'm you're he's she'd we'll they've don't", "I'M YOU'RE HE'S SHE'D WE'LL THEY'VE DON'T", "I’m you’re he’s she’d we’ll they’ve don’t", "'s 't 're 've 'm 'll 'd", "'S 'T 'RE 'VE 'M 'LL 'D",
        "'tis 'twas 'em o'clock rock'n'roll y'all'd've", "it''s", "dogs' owners'", "'sample' 'tree' 'real' 'very' 'more' 'llama' 'dog'", "x's1's", "'s's's", "a 's b", "'", "''", "'''", "can't've", "fo'c's'le", "'d'd", "l'été d'une", "O'Reilly's", "1's 0's", "中's", "é's", "'ſ 'ﬆ", "rock 'n' roll",
    ]
    while True:
        yield f"{rng.choice(['I', 'we', 'They', 'SHE', 'it', 'who', 'ça', '他'])}{rng.choice(list(chr(39) + '’' + chr(96)))}{rng.choice(['s', 't', 're', 've', 'm', 'll', 'd', 'S', 'LL', 'x', 'dx', 'mm'])}{rng.choice([' ', '', '.', '!', chr(39)])}{rng.choice(OBJECTS)}"


def addresses(rng):
    yield from [
        "https://example.com/a/b?c=d&e=f#g", "http://user:pw@host.example:8080/%7Epath/;p=1", "ftp://ftp.example.org/pub/file.tar.gz", "mailto:jane.doe+tag@example.co.uk", "www.example.com", "C:\\Users\\Jane\\Desktop\\report (1).docx",
        "/usr/local/lib/python3.12/site-packages", "../../etc/hosts", "~/.config/app.toml", "file:///tmp/x%20y", "git@example.com:group/project.git", "https://例え.テスト/パス?クエリ=値", "magnet:?xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a",
        "550e8400-e29b-41d4-a716-446655440000", "@user #hashtag $TICKER", "s3://bucket/key/2024/01/01/part-00000.parquet", "::1 fe80::1%eth0 2001:db8::/32", "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUA", "doi:10.1000/182", "10.0.0.0/8",
    ]
    while True:
        host = rng.choice("example.com test.example api.example.org münchen.example xn--mnchen-3ya.example".split())
        yield f"{rng.choice(['See ', '', '<', '(', 'href='])}https://{host}/{rng.choice(NAMES)}/{rng.randrange(10 ** 6)}{rng.choice(['', '.html', '?q=a+b', '#top', '/', ')', '>'])}"


# ------------------------------------------------------------------------------ special tokens, random text

def special(rng):
    yield from CONTROL
    yield from [
        "".join(CONTROL), " ".join(CONTROL), "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n",
        "<|im_end|><|im_end|>", "<|im_start|", "|im_start|>", "<|im_start |>", "<|IM_START|>", "< |im_end|>", "<|im_end|>>", "<<|im_end|>", "<|endoftext", "<|endoftext|> ", " <|endoftext|>", "  <|endoftext|>  ", "\n<|im_end|>\n", "a<|im_end|>b", "a <|im_end|> b",
        "é<|im_start|>中", "1<file_sep>2", "'<|im_end|>'s", "<repo_name>owner/project<file_sep>src/main.rs\nfn main() {}\n<|endoftext|>", "<filename>a.py<gh_stars>10-100\nx = 1", "<issue_start>Title<issue_comment>It fails.<issue_closed>",
        "<jupyter_start><jupyter_text>Load it<jupyter_code>print(1)<jupyter_output>1<empty_output>", "<repo_name", "repo_name>", "<reponame><repo_name>", "<fim_prefix>", "<s></s><unk><pad>", "<|user|>", "[INST] hi [/INST]", "<|im_sep|>", "<|im_start|>'s", "<|im_start|>\u0301",
        "<|im_start|> <|im_end|>", "<|im_start|>\t<|im_end|>", "don<|im_end|>'t",
    ]
    while True:
        parts = rng.choices(CONTROL, k=rng.randrange(1, 4))
        glue = ["", " ", "\n", "user\n", "don't", "42", "é", "  ", "word ", " word", "😀", "'s", ".", "assistant"]
        yield rng.choice(glue) + "".join(part + rng.choice(glue) for part in parts)


RANGES = [(0x20, 0x7E)] * 4 + [(0xA1, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x620, 0x64A), (0x904, 0x939), (0x1E00, 0x1EFF), (0x2010, 0x2027), (0x2190, 0x22FF), (0x2500, 0x25FF), (0x3041, 0x30FA), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x20000, 0x2A6D6)]


def random_text(rng):
    while True:
        pick = rng.choices(RANGES, k=rng.randrange(1, 5))
        letters = [chr(rng.randint(*rng.choice(pick))) if rng.random() < 0.85 else rng.choice(" \n\t'0") for _ in range(rng.randrange(4, 40))]
        yield "".join(c for c in letters if unicodedata.category(c) != "Cn")


# ------------------------------------------------------------------------------------------------ the file

PLAN = [
    (prose, 180), (code, 120), (scripts, 180), (combining, 80), (emoji, 100), (whitespace, 100), (digits, 60), (contractions, 45), (addresses, 35), (special, 100),
]  # random_text fills up to 1,000: a line that another group already made is dropped


def escape(text):
    """JSON of `text` with every invisible or line-breaking character as an escape, so that a line stays a line."""
    encoded = json.dumps(text, ensure_ascii=False)
    hidden = lambda c: unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Co", "Cn") or (c != " " and unicodedata.category(c) == "Zs")
    return "".join(json.dumps(c)[1:-1] if hidden(c) else c for c in encoded)


def main():
    rng = random.Random(SEED)
    lines = {}
    for source, count in PLAN:
        stream, end = source(rng), len(lines) + count
        while len(lines) < end:
            lines.setdefault(next(stream))
    stream = random_text(rng)
    while len(lines) < 1000:
        lines.setdefault(next(stream))
    body = "".join(f'{{"text": {escape(text)}}}\n' for text in lines)
    assert [json.loads(line)["text"] for line in body.split("\n")[:-1]] == list(lines)
    (HERE / "lines.jsonl").write_text(body, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
