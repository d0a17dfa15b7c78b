"""Whether the text of a page can be read: JavaScript for `support.chromium.Browser.js`."""

from __future__ import annotations

# The ratio of text to what it stands on, as WCAG 2 counts it, of every element that shows text of its own.
CONTRAST = """(() => {
  const parse = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length && color[3] !== 0) return color;
    }
    return [255, 255, 255];
  };
  return [...document.body.querySelectorAll("*")].filter((node) => node.checkVisibility() &&
      [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).map((node) => {
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), node.textContent.trim().slice(0, 30)];
  }).filter(([ratio]) => ratio < 4.5);
})()"""
