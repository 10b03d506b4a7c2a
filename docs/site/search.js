// SPDX-License-Identifier: Apache-2.0
// Finds pages and headings by the words of their titles; INDEX is [title, page, [heading, anchor]...] per page.
const field = document.getElementById('search');
const found = document.getElementById('found');

function matches(words) {
    const hits = [];
    for (const [title, page, ...headings] of INDEX)
        for (const [text, anchor] of [[title, ''], ...headings]) {
            const where = text.toLowerCase();
            if (words.every(word => where.includes(word)))
                hits.push({ text, page, anchor, title });
        }
    return hits.sort((a, b) => a.text.length - b.text.length).slice(0, 20);
}

function show() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    found.replaceChildren();
    for (const hit of words.length ? matches(words) : []) {
        const item = document.createElement('li');
        const link = document.createElement('a');
        link.href = BASE + hit.page + (hit.anchor ? '#' + hit.anchor : '');
        link.textContent = hit.anchor ? `${hit.text} · ${hit.title}` : hit.text;
        item.append(link);
        found.append(item);
    }
    found.hidden = !found.children.length;
}

field.addEventListener('input', show);
field.addEventListener('keydown', event => {
    if (event.key === 'Enter' && found.querySelector('a'))
        found.querySelector('a').click();
    if (event.key === 'Escape')
        found.hidden = true;
});
