// Dialogs over a page. Escape and a click close them; keys that are pressed meanwhile are not the page's.

function showDialog(root, className, ...content) {
    const dialog = Object.assign(document.createElement('dialog'), {className, tabIndex: -1})
    dialog.setAttribute('role', 'dialog') // what the pages' own listeners look for
    dialog.append(...content)
    dialog.addEventListener('keydown', event => event.stopPropagation())
    dialog.addEventListener('click', () => dialog.close())
    dialog.addEventListener('close', () => dialog.remove())
    root.append(dialog)
    dialog.showModal()
}

// A picture as large as the screen, its caption and links below it. Tiny pictures are enlarged four times.
function showPicture(root, {src, alt, caption}, ...links) {
    const image = Object.assign(new Image(), {src, alt}), below = document.createElement('p')
    image.addEventListener('load', () => {
        image.style.maxWidth = `${4 * image.naturalWidth}px`
        image.style.maxHeight = `${4 * image.naturalHeight}px`
    })
    const text = Object.assign(document.createElement('span'), {textContent: caption, dir: 'auto'})
    const alone = Object.assign(document.createElement('a'), {href: src, target: '_blank', textContent: 'Open in a new tab'})
    below.append(text, ...links, alone)
    showDialog(root, 'enlarged', image, below)
}
