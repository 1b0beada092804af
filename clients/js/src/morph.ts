/** Changes a part of the page into newly rendered HTML, and keeps the nodes that remain. */

/** State that the browser, the visitor or htmx keeps in attributes. */
const KEPT_ATTRIBUTES = /^(open|data-htmx-powered)$/;

/**
 * Give `node` the attributes and the children of `wanted`, whose nodes it may take.
 *
 * Elements are the same when their ids are, and without ids when they have the same tag at
 * the same place. What a visitor typed or opened, the focus and scroll positions stay, as
 * they belong to nodes that stay.
 */
export function morph(node: Node, wanted: Node): void {
  if (!(node instanceof Element) || !(wanted instanceof Element)) {
    if (node.nodeValue !== wanted.nodeValue) node.nodeValue = wanted.nodeValue;
    return;
  }
  if (node.hasAttribute("data-live-keep")) return;
  for (const { name } of [...node.attributes]) {
    if (!wanted.hasAttribute(name) && !KEPT_ATTRIBUTES.test(name)) node.removeAttribute(name);
  }
  for (const attribute of wanted.attributes) {
    const { name, value } = attribute;
    if (node.getAttribute(name) !== value && !KEPT_ATTRIBUTES.test(name)) {
      // setAttribute() refuses names that HTML has, such as @click.
      node.setAttributeNode(attribute.cloneNode() as Attr);
    }
  }
  morphChildren(node, wanted);
}

function morphChildren(parent: Element, wanted: Element): void {
  const byId = new Map([...parent.children].map((child) => [child.id, child]));
  const wantedIds = new Set([...wanted.children].map(({ id }) => id));
  const stays = (node: ChildNode): boolean => !!idOf(node) && wantedIds.has(idOf(node));
  // Some browsers cannot move a node without resetting it.
  const move = (parent.moveBefore ?? parent.insertBefore).bind(parent);
  let next = parent.firstChild;
  for (const child of [...wanted.childNodes]) {
    const id = idOf(child);
    let found = id ? byId.get(id) : next && !idOf(next) ? next : undefined;
    if (found?.nodeName !== child.nodeName) found = undefined;
    if (!found) {
      parent.insertBefore(child, next);
      continue;
    }
    // Remove what stands before it, rather than move it, which would take its focus.
    let between = next;
    while (between && between !== found && !stays(between)) between = between.nextSibling;
    while (between === found && next !== found) next = removed(next!);
    if (next === found) next = next.nextSibling;
    else move(found, next);
    morph(found, child);
  }
  while (next) next = removed(next);
}

function idOf(node: Node): string {
  return (node as Element).id ?? "";
}

/** Remove a node and return the one after it. */
function removed(node: ChildNode): ChildNode | null {
  const next = node.nextSibling;
  node.remove();
  return next;
}
