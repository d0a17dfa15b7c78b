// What the pages share: elements, the token, and requests.
export const TIMEOUT = 5000; // ms for an answer
let token = takeToken();

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname); // it does not stay in the address or the history
  }
  return sessionStorage.getItem("token") ?? "";
}

export function useToken(given) { // "" keeps the one that is in use
  token = given || token;
}

export function keepToken() { // until the tab is closed
  if (token) sessionStorage.setItem("token", token);
}

export const find = (id) => document.getElementById(id);
export const percent = (score) => `${(100 * score).toFixed(1)} %`;

export function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function put(node, text) { // only what changed: screen readers and selections stay undisturbed
  if (node.textContent !== text) node.textContent = text;
}

export async function ask(path, options = {}, timeout = TIMEOUT) {
  const headers = token ? {Authorization: `Bearer ${token}`} : {};
  return fetch(path, {...options, headers, cache: "no-store", signal: AbortSignal.timeout(timeout)});
}

export async function reason(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `status ${response.status}`;
  }
}
