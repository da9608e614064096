// What the keys of a page do, in a dialog that "?" opens; on the page of a pair a click enlarges the picture as well.

const TYPING = 'textarea, select, [contenteditable], [role=dialog], input:not([type=checkbox])'

function keysDialog(root, keys) {
    const list = document.createElement('dl')
    for (const [key, meaning] of Object.entries(keys)) {
        const name = document.createElement('dt')
        name.append(...key.split(' ').map(part => Object.assign(document.createElement('kbd'), {textContent: part})))
        list.append(name, Object.assign(document.createElement('dd'), {textContent: meaning}))
    }
    showDialog(root, 'keys', Object.assign(document.createElement('h2'), {textContent: 'Keys'}), list)
}

export default function ({data, parentElement}) {
    const stopped = new AbortController(), {signal} = stopped
    const button = parentElement.querySelector('button')
    button.addEventListener('click', () => keysDialog(parentElement, data.keys), {signal})
    addEventListener('keydown', event => {
        const [target] = event.composedPath()
        if (event.key !== '?' || event.ctrlKey || event.metaKey || event.altKey || target.closest?.(TYPING)) return
        event.preventDefault()
        keysDialog(parentElement, data.keys)
    }, {signal})
    document.addEventListener('click', event => {
        if (data.picture && event.target.closest('.st-key-pair-picture img')) {
            const {path, ...told} = data.picture
            showPicture(parentElement, {src: new URL(path, location.href).href, ...told})
        }
    }, {signal})
    return () => stopped.abort()
}
