"""The rules a site's images are held to, in words a data manager can act on. Report and README quote these.

An **error** keeps the file or session out of use. A **warning** leaves it in and asks somebody to look. A **note** only informs.
"""

from __future__ import annotations

from typing import Final

from tasks.ms.rules import Rule

RULES: Final[tuple[Rule, ...]] = (
    # the file
    Rule(
        "unreadable",
        "error",
        "An image is a NIfTI file, .nii.gz or .nii, that can be opened.",
        "Convert it again from DICOM, or fetch it again if it is a link.",
    ),
    Rule("damaged", "error", "A file is complete and its check sum is right.", "Copy or convert it again."),
    Rule(
        "outside",
        "error",
        "Links stay within the image folder.",
        "Put the file itself here; what a link leads out to is not opened.",
    ),
    Rule("too_large", "error", "An image has at most 512 x 512 x 512 voxels.", "Look at the header; convert it again."),
    Rule(
        "not_3d",
        "error",
        "An image is a volume, not a slice or a localiser.",
        "Convert the series as one volume, or remove the file.",
    ),
    Rule(
        "many_volumes",
        "error",
        "A file holds one volume.",
        "Write the volume that is meant into a file of its own: nothing in the file says which it is.",
    ),
    Rule("one_volume", "note", "A file with one volume has three axes.", "Nothing to do: the spare axis is dropped."),
    # where it lies
    Rule("spacing", "error", "Voxels are 0.1 to 20 mm apart.", "Convert it again; the header's pixdim or its unit is wrong."),
    Rule("units", "warning", "Lengths are in millimetres.", "Look at the voxel size in a viewer; if it is right, leave it."),
    Rule("units_unknown", "note", "The header names its unit of length.", "Nothing to do if the voxel size is right."),
    Rule(
        "spacings_differ",
        "warning",
        "The header's voxel size (pixdim) is that of its affine.",
        "The affine is used. Lesion volumes depend on it: look, and convert again if it is wrong.",
    ),
    Rule(
        "affine",
        "error",
        "The header's position is finite, invertible and at right angles.",
        "Convert it again, or resample it onto straight axes.",
    ),
    Rule(
        "no_position",
        "error",
        "The header says which way the head lies.",
        "Convert it again; for a mask, copy the geometry of the image it was drawn on.",
    ),
    Rule(
        "forms_differ",
        "warning",
        "The two positions in the header (sform and qform) agree within a voxel.",
        "The sform is used. Look whether mask and images lie on each other in a viewer.",
    ),
    Rule("oblique", "note", "The slices run along the axes of space.", "Nothing to do: the preparation resamples by the affine."),
    Rule(
        "thick_slices",
        "warning",
        "Slices are at most three times as thick as voxels are wide.",
        "Small lesions are seen worse. Use the 3D sequence if there is one.",
    ),
    # what is in it
    Rule("flat", "error", "An image has contrast.", "Look at it: it is empty. Convert it again, or remove it."),
    Rule(
        "not_finite",
        "warning",
        "Every voxel is a finite number.",
        "Such voxels are read as 0. Look whether they lie outside the brain.",
    ),
    Rule(
        "same_image",
        "error",
        "An image belongs to one patient.",
        "Find out whose it is and remove it from the others: the copies would tell a model about patients it is tested on.",
    ),
    Rule("same_image_again", "warning", "An image stands once in a patient's folders.", "Replace or remove the copy."),
    # the mask
    Rule(
        "mask_values",
        "error",
        "A lesion mask has one value besides 0.",
        "Write the lesions alone into a mask; nothing says what the labels mean.",
    ),
    Rule(
        "mask_fractions",
        "warning",
        "A lesion mask has no fractions.",
        "Values of one half and more count as lesion. Look whether that is meant.",
    ),
    Rule(
        "empty_mask",
        "warning",
        "A lesion mask marks something.",
        "Leave it if the patient has no lesion; remove it if nobody has drawn it.",
    ),
    Rule("mask_grid", "note", "A mask has the voxels of its image.", "Nothing to do: it is resampled by position."),
    Rule(
        "mask_space",
        "error",
        "A mask lies in the space of its session's images.",
        "Bring it into that space, or give it the space- of its images in its name if it is there already.",
    ),
    Rule(
        "mask_without_session",
        "error",
        "A mask belongs to one session that has images.",
        "Put the session into its name and folder.",
    ),
    Rule(
        "new_unplaced",
        "warning",
        "A mask of new lesions is of one session and the one before, in the space of the later one's images.",
        "It is measured, and nothing is learnt from it: put the later session into its name, or bring it into that space.",
    ),
    # the session
    Rule("image_grid", "note", "Images of one session have the same voxels.", "Nothing to do: they are resampled by position."),
    Rule(
        "image_space",
        "error",
        "Images of one session lie in one space.",
        "Register it to the others, or convert it again.",
    ),
    Rule(
        "no_image",
        "warning",
        "A session has at least one FLAIR, T1w or T2w.",
        "Remove the folder, or look whether its names are right.",
    ),
    Rule(
        "missing_main",
        "warning",
        "A session has a FLAIR and a T1w before contrast.",
        "Add it if it was acquired; without it lesions are found less well.",
    ),
    Rule(
        "missing_other", "note", "A session has a T2w and a T1w after contrast (ce-gad).", "Nothing to do if it was not acquired."
    ),
    Rule(
        "several_files",
        "warning",
        "A session has one file of each kind.",
        "Another one is used. Remove this if the other is right.",
    ),
    Rule("other_space", "note", "Images of a session are kept in one space.", "Nothing to do: those in the mask's space are used."),
    Rule(
        "no_day",
        "warning",
        "A session has a day, counted as in the tables.",
        "Fill in bids_sub, bids_ses and day in the table mri, or a column day in the sessions' table.",
    ),
    Rule(
        "not_registered",
        "note",
        "Sessions that follow each other show the head in one place.",
        "Register them to each other if new lesions are to be counted or learnt; nothing else needs it.",
    ),
    # names and side files
    Rule(
        "name",
        "warning",
        "Folders of subjects and sessions, and files in anat, are named as BIDS or the map says.",
        "It is not used. Rename it, or say in images.yaml which file is what.",
    ),
    Rule("misplaced", "error", "A file's name has the subject and session of its folder.", "Find out which is right."),
    Rule(
        "side_file", "warning", "Side files are right: JSON objects, tables with tabs, whole days.", "Correct it; it is not used."
    ),
    Rule(
        "participants", "note", "participants.tsv lists the subjects that have folders.", "Correct the list, or fetch the folders."
    ),
    # privacy
    Rule(
        "identifies",
        "warning",
        "Side files name no patient and no date.",
        "Remove these keys: converters can leave them out. Wardround reads none of them.",
    ),
    Rule(
        "faces",
        "warning",
        "Heads are defaced, or brains extracted.",
        "The side file says this is not so. A head can be recognised from its MRI: deface it where research copies are kept.",
    ),
    Rule("defaced", "note", "A side file says that the head is defaced or the brain extracted.", "Nothing to do."),
    Rule(
        "faces_unknown",
        "note",
        "Whether heads show faces is stated.",
        "It cannot be told from voxels with certainty, so it is not told. Look in a viewer, and treat them as faces until then.",
    ),
    # the tables
    Rule(
        "no_such_patient",
        "error",
        "Each subject is a patient of the table patients.",
        "Add the patient, or fill in bids_sub in the table mri.",
    ),
    Rule("two_patients", "error", "A subject's folder belongs to one patient.", "Correct bids_sub in the table mri."),
    Rule(
        "days_differ",
        "error",
        "Folder and table mri give a session one day.",
        "Find out which is right; the session is not used until then.",
    ),
    Rule(
        "row_without_images",
        "warning",
        "Each subject and session named in the table mri has images.",
        "Fetch the images, or correct bids_sub and bids_ses.",
    ),
    Rule("patient_without_images", "note", "Each patient of the tables has images.", "Nothing to do if none were taken."),
)
PREPARING: Final[tuple[Rule, ...]] = (  # what only shows when a scan is prepared
    Rule("no_head", "error", "An image shows a head.", "Look at it: its unit of length or its content is wrong."),
    Rule(
        "no_modality",
        "warning",
        "A session has one of the sequences that the plan asks for.",
        "Nothing to do if none was acquired.",
    ),
    Rule("changed", "error", "Files stay as they are while they are read.", "Wait until they are copied, and start again."),
)
_BY_NAME: Final = {rule.name: rule for rule in (*RULES, *PREPARING)}


def rule_called(name: str) -> Rule:
    """The rule called `name`, which must exist."""
    return _BY_NAME[name]
